"""``plait bench gpu``: every cell in a process of its own kind, one process at a time, within a stated time.

Each outcome is written to a file as soon as it is there, so that a machine that is taken away leaves what was measured.
"""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from simulations.bench.gpu_cells import Cell, Outcome, State

_CELL_S = 240.0
"""Longest time of one cell, the loading of libraries and base included."""


class Worker(Protocol):
    """Measures cells one after another."""

    def measure(self, cell: Cell, within_s: float) -> Outcome | None:
        """The outcome; None if the process has ended or took too long."""
        ...

    def close(self) -> None:
        """End it."""
        ...


def measure_all(
    processes: Iterable[Sequence[Cell]],
    start: Callable[[], Worker],
    *,
    seconds: float,
    now: Callable[[], float] = time.monotonic,
    progress: Callable[[str], None] = lambda _: None,
) -> Iterator[Outcome]:
    """Measure cells in order until the time is over; what is left is skipped.

    Args:
        processes: cells that share a process.
        start: starts one.
        seconds: for all.
        now: a clock, in seconds.
        progress: told of every cell before it is measured.
    """
    end = now() + seconds
    for cells in processes:
        worker: Worker | None = None
        try:
            for cell in cells:
                left = end - now()
                if left <= 0:
                    yield Outcome(str(cell), State.SKIPPED, "no time is left")
                    continue
                progress(str(cell))
                worker = worker or start()
                within = min(left, _CELL_S)
                outcome = worker.measure(cell, within)
                if outcome is None:
                    worker.close()
                    worker = None
                    outcome = _unfinished(cell, within, is_over=now() >= end)
                yield outcome
        finally:
            if worker:
                worker.close()


def _unfinished(cell: Cell, within_s: float, *, is_over: bool) -> Outcome:
    if is_over:
        return Outcome(str(cell), State.SKIPPED, f"the time for all ended after {within_s:.0f} s of it")
    return Outcome(str(cell), State.FAILED, f"its process ended, or took more than {within_s:.0f} s")


class Process:
    """A worker that is a process.

    Args:
        device: on which it measures.
        log: what its libraries print is added to this file.
    """

    def __init__(self, device: str, log: Path) -> None:
        with log.open("ab") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "simulations.bench.gpu_measure", device],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True, cwd=Path(__file__).parents[2],
            )  # fmt: skip
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def measure(self, cell: Cell, within_s: float) -> Outcome | None:
        """See `Worker`."""
        try:
            assert self._process.stdin
            self._process.stdin.write(cell.to_json() + "\n")
            self._process.stdin.flush()
            line = self._lines.get(timeout=within_s)
        except (OSError, queue.Empty):
            return None
        return Outcome.from_json(line) if line else None

    def close(self) -> None:
        """See `Worker`."""
        self._process.kill()
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

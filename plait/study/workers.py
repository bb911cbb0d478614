"""Runs of a sweep, one after the other in this process, or in several processes beside each other."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from plait.rounds.stop import StopRequest
from plait.simulation.loaded import Loaded
from plait.study.attempt import Outcome, attempt
from plait.study.grid import Cell

_LOOK_S = 0.2
"""How often a process that waits for others looks whether it is to stop."""


@dataclass(frozen=True)
class Done:
    """A run that has ended, and how."""

    cell: Cell
    outcome: Outcome


def in_this_process(cells: Sequence[Cell], paths: Mapping[str, Path], stop: StopRequest) -> Generator[Done]:
    """Do the runs in order; base, data and tokens are loaded once.

    Args:
        cells: the runs.
        paths: their directories, by name.
        stop: ends the iteration after the run that it stops.
    """
    loaded = Loaded()
    for cell in cells:
        outcome = attempt(cell.settings, paths[cell.name], loaded, stop)
        if outcome.error:
            # What a failed run left in memory is not trusted.
            loaded = Loaded()
        yield Done(cell, outcome)
        if outcome.interrupted or stop.asked:
            return


def in_processes(cells: Sequence[Cell], paths: Mapping[str, Path], stop: StopRequest, jobs: int) -> Generator[Done]:
    """Do the runs in `jobs` processes, each of which loads base and data once; the arguments are those above."""
    waiting, done = iter(cells), queue.SimpleQueue[Done | None]()
    lock = threading.Lock()

    def next_cell() -> Cell | None:
        with lock:
            return None if stop.asked else next(waiting, None)

    workers = [_Worker(next_cell, paths, done.put) for _ in range(min(jobs, len(cells)))]
    threads = [threading.Thread(target=worker.work, daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    stop.heeded = True
    left = len(workers)
    try:
        while left:
            try:
                ended = done.get(timeout=_LOOK_S)
            except queue.Empty:
                if stop.asked:
                    # Again and again, for a worker may have been about to start its process.
                    for worker in workers:
                        worker.stop()
                continue
            if ended is None:
                left -= 1
            else:
                yield ended
    finally:
        stop.heeded = False
        for worker in workers:
            worker.close()


class _Worker:
    """One process and the thread that speaks to it; a process that dies fails its run and is started again.

    Args:
        next_cell: the next run to do; None if there is none.
        paths: directories of the runs, by name.
        tell: told of every run that has ended, and at the end of None.
    """

    def __init__(
        self, next_cell: Callable[[], Cell | None], paths: Mapping[str, Path], tell: Callable[[Done | None], None]
    ) -> None:
        self._next_cell = next_cell
        self._paths = paths
        self._tell = tell
        self._process: subprocess.Popen[str] | None = None

    def work(self) -> None:
        """Do runs until there are none."""
        try:
            while cell := self._next_cell():
                self._tell(Done(cell, self._attempt(cell)))
        finally:
            self._tell(None)

    def stop(self) -> None:
        """Stop the run in progress."""
        if process := self._process:
            self._say({"stop": True}, process)

    def close(self) -> None:
        """End the process."""
        if self._process:
            self._process.kill()
            _code_of(self._process)

    def _attempt(self, cell: Cell) -> Outcome:
        if self._process is None:
            command = [sys.executable, "-m", "plait.study.worker"]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        process = self._process
        self._say({"settings": dict(cell.settings), "path": str(self._paths[cell.name].absolute())}, process)
        answer = process.stdout.readline() if process.stdout else ""
        if not answer:
            code, self._process = _code_of(process), None
            how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
            return Outcome(f"its process {how}; the run is continued when the sweep is started again")
        found = json.loads(answer)
        return Outcome(str(found["error"]), bool(found["interrupted"]))

    @staticmethod
    def _say(task: Mapping[str, object], process: subprocess.Popen[str]) -> None:
        line = json.dumps(task) + "\n"
        # Where it has ended, or its pipe is closed, the answer that does not come says so too.
        with contextlib.suppress(BrokenPipeError, ValueError):
            if process.stdin:
                process.stdin.write(line)
                process.stdin.flush()


def _code_of(process: subprocess.Popen[str]) -> int:
    """Wait for a process, and close its pipes."""
    code = process.wait()
    for pipe in (process.stdin, process.stdout):
        # What was not written yet is for nobody.
        with contextlib.suppress(BrokenPipeError):
            if pipe:
                pipe.close()
    return code

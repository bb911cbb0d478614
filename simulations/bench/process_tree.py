"""Run a command and measure it with all processes that it starts, even detached ones (Linux only).

They are found by a mark in their environment, which each inherits. Memory that processes share counts once (PSS).
"""

from __future__ import annotations

import os
import secrets
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from plait.errors import MachineError

_MARK = "PLAIT_BENCH_MARK"
_PAUSE_S = 0.25
_TAIL = 2000


@dataclass(frozen=True)
class Measured:
    """The resources that a command used.

    Attributes:
        wall_s: from its start to its end.
        processor_s: of all its processes, to a quarter of a second each.
        peak_bytes: peak memory of all together, sampled.
        output: what it wrote to standard output.
    """

    wall_s: float
    processor_s: float
    peak_bytes: int
    output: str


def measured(
    command: Sequence[str],
    *,
    cwd: Path,
    environment: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
) -> Measured:
    """Run a command to its end.

    Raises:
        MachineError: it failed, it did not end within `timeout_s` (and all its processes have been ended), or this
            system does not show its processes.
    """
    if not psutil.LINUX:
        raise MachineError("only Linux shows the memory that processes share")
    mark = secrets.token_hex(8)
    sampler = _Sampler(mark)
    thread = threading.Thread(target=sampler.run, daemon=True)
    started = time.perf_counter()
    with subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, **(environment or {}), _MARK: mark},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        thread.start()
        try:
            output, errors = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            sampler.end_all()
            process.communicate()
            raise MachineError(
                f"'{command[0]}' took longer than {timeout_s:.0f} s; ask for less, or more time"
            ) from None
        finally:
            sampler.stop.set()
    wall_s = time.perf_counter() - started
    thread.join()
    if process.returncode:
        raise MachineError(f"'{command[0]}' failed with code {process.returncode}: {(errors or output)[-_TAIL:]}")
    return Measured(wall_s, sum(sampler.processor_s.values()), sampler.peak_bytes, output)


class _Sampler:
    """Polls all processes with a mark."""

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self._ours: dict[psutil.Process, bool] = {}
        self.stop = threading.Event()
        self.processor_s: dict[psutil.Process, float] = {}
        self.peak_bytes = 0

    def run(self) -> None:
        """Until it is told to stop, and once more."""
        while not self.stop.wait(_PAUSE_S):
            resident = 0
            for process in psutil.process_iter():
                with suppress(psutil.Error):  # it has just ended
                    if self._is_ours(process):
                        times = process.cpu_times()
                        self.processor_s[process] = times.user + times.system
                        resident += process.memory_full_info().pss
            self.peak_bytes = max(self.peak_bytes, resident)

    def end_all(self) -> None:
        """Kill every process with the mark."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if self._is_ours(process):
                    process.kill()

    def _is_ours(self, process: psutil.Process) -> bool:
        if not self._ours.get(process):
            # Read again while it is not: between fork and exec a process shows its parent's environment.
            self._ours[process] = process.environ().get(_MARK) == self._mark
        return self._ours[process]

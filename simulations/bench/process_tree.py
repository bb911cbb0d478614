"""Run a command and measure it with all processes that it starts, even detached ones (Linux only).

They are found by a mark in their environment, which each inherits. Memory that processes share counts once (PSS).
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from plait.errors import MachineError

_MARK = "PLAIT_BENCH_MARK"
_PAUSE_S = 0.25
_TAIL = 2000
_PROC = Path("/proc")


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
    if not (_PROC / "self" / "smaps_rollup").exists():
        raise MachineError("this system has no /proc/PID/smaps_rollup, expected Linux")
    mark = secrets.token_hex(8)
    sampler = _Sampler(f"{_MARK}={mark}".encode())
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

    def __init__(self, mark: bytes) -> None:
        self._mark = mark
        self._ours: dict[str, bool] = {}
        self.stop = threading.Event()
        self.processor_s: dict[str, float] = {}
        self.peak_bytes = 0

    def run(self) -> None:
        """Until it is told to stop, and once more."""
        while not self.stop.wait(_PAUSE_S):
            self._look()

    def end_all(self) -> None:
        """Kill every process with the mark."""
        for pid in [entry.name for entry in _PROC.iterdir() if entry.name.isdigit()]:
            with suppress(OSError):
                if self._is_ours(pid):
                    os.kill(int(pid), signal.SIGKILL)

    def _look(self) -> None:
        present = [entry.name for entry in _PROC.iterdir() if entry.name.isdigit()]
        for gone in self._ours.keys() - set(present):
            del self._ours[gone]  # process ids are reused
        resident = 0
        for pid in present:
            try:
                if not self._is_ours(pid):
                    continue
                # The second field, the name, may contain spaces: count from after its closing bracket.
                numbers = (_PROC / pid / "stat").read_text().rpartition(")")[2].split()
                ticks = int(numbers[11]) + int(numbers[12])
                self.processor_s[f"{pid} {numbers[19]}"] = ticks / os.sysconf("SC_CLK_TCK")
                resident += _proportional_bytes(_PROC / pid / "smaps_rollup")
            except (OSError, ValueError, IndexError):
                continue  # it has just ended
        self.peak_bytes = max(self.peak_bytes, resident)

    def _is_ours(self, pid: str) -> bool:
        if not self._ours.get(pid):
            # Read again while it is not: between fork and exec a process shows its parent's environment.
            self._ours[pid] = self._mark in (_PROC / pid / "environ").read_bytes().split(b"\0")
        return self._ours[pid]


def _proportional_bytes(file: Path) -> int:
    for line in file.read_text().splitlines():
        if line.startswith("Pss:"):
            return 1024 * int(line.split()[1])
    return 0

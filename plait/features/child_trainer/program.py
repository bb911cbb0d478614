"""A program that trains, as a child of this process: one JSON line asks, one answers, with lines of progress between.

It has a session of its own, an environment without this process's secrets, and no files of it. A program that dies,
says nothing for too long, or says what cannot be read is ended, and started again for the next question. Knows no
adapter.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import IO, cast

from plait.abandon import Abandoned, check_abandoned, check_waiting
from plait.errors import ConfigError, MachineError
from plait.text import printable

SILENT_S = 240.0
"""How long a program may say nothing while it has a question: less than servers allow their clients."""
_GIVE_UP_S = 10.0
_LOOK_S = 0.2
_LINE_BYTES = 1 << 20
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH")
_LIMITS = {"RLIMIT_CORE": 0, "RLIMIT_NOFILE": 1024}

Said = Mapping[str, object]


@dataclass(eq=False)
class Program:
    """The program, started when it is first asked.

    Attributes:
        command: as a shell would split it.
        data: what its operator gave it to train on.
        silent_s: how long it may say nothing while it has a question.
        memory_bytes: address space that it may have; 0 for all.
    """

    command: str
    folder: Path
    _: KW_ONLY
    data: str
    silent_s: float = SILENT_S
    memory_bytes: int = 0

    def __post_init__(self) -> None:
        try:
            self._arguments = shlex.split(self.command)
        except ValueError as error:
            raise ConfigError(f"trainer-exec is {self.command!a}, expected a command: {error}") from error
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def ask(self, do: str, **more: object) -> Said:
        """The answer to one question.

        Raises:
            Abandoned: the result is no longer needed; the program has stopped, or was ended.
            MachineError: there is no answer; one line.
        """
        process = self._started()
        try:
            self._say(process, {"do": do, **more})
            while True:
                said = self._heard(process)
                if "progress" in said:
                    check_abandoned()
                elif "error" in said:
                    raise MachineError(f"the trainer failed: {printable(str(said['error']), limit=300)}")
                else:
                    return said
        except Abandoned:
            self._give_up(process)
            raise

    def close(self) -> None:
        """End the program and its child processes."""
        if self._process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process = None

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ} | {"PLAIT_DATA": self.data}
        try:
            process = subprocess.Popen(
                self._arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=self.folder,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise MachineError(f"the trainer {self.command!a} cannot be started: {error.strerror or error}") from error
        _limit(process.pid, self.memory_bytes)
        lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=_read, args=(process.stdout, lines), name="trainer", daemon=True).start()
        self._process, self._lines = process, lines
        return process

    def _say(self, process: subprocess.Popen[bytes], said: Said) -> None:
        try:
            pipe = cast("IO[bytes]", process.stdin)
            pipe.write(json.dumps(said).encode() + b"\n")
            pipe.flush()
        except OSError:
            raise self._ended(process) from None

    def _heard(self, process: subprocess.Popen[bytes]) -> Said:
        end = time.monotonic() + self.silent_s
        while True:
            check_waiting()
            try:
                line = self._lines.get(timeout=_LOOK_S)
            except queue.Empty:
                if time.monotonic() > end:
                    self.close()
                    raise MachineError(f"the trainer printed nothing for {self.silent_s:g} s and was stopped") from None
                continue
            if not line:
                raise self._ended(process)
            try:
                said = json.loads(line)
            except ValueError:
                said = None
            if not isinstance(said, dict):
                self.close()
                raise MachineError("the trainer printed something other than a JSON object on a line and was stopped")
            return cast("Said", said)

    def _ended(self, process: subprocess.Popen[bytes]) -> MachineError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1.0)
        code = process.returncode
        self.close()
        how = "closed its output" if code is None else f"ended with {f'signal {-code}' if code < 0 else f'code {code}'}"
        return MachineError(f"the trainer {how} before it answered")

    def _give_up(self, process: subprocess.Popen[bytes]) -> None:
        """Let it stop on its own, so that it stays loaded; else end it."""
        end = time.monotonic() + _GIVE_UP_S
        try:
            self._say(process, {"do": "abandon"})
            while time.monotonic() < end:
                with contextlib.suppress(queue.Empty):
                    line = self._lines.get(timeout=_LOOK_S)
                    if not line or b'"abandoned"' in line:
                        return
        except MachineError:
            return
        self.close()


def _read(pipe: IO[bytes], lines: queue.SimpleQueue[bytes]) -> None:
    """Lines as they come; an empty one for the end, which a line that is too long is as well."""
    with contextlib.suppress(OSError, ValueError):
        while (line := pipe.readline(_LINE_BYTES)).endswith(b"\n"):
            lines.put(line)
    lines.put(b"")


def _limit(process: int, memory_bytes: int) -> None:
    if sys.platform != "linux":
        return
    import resource

    limits = {**_LIMITS, **({"RLIMIT_AS": memory_bytes} if memory_bytes else {})}
    for name, most in limits.items():
        # One that is gone by now says so when it is asked.
        with contextlib.suppress(OSError, ValueError):
            resource.prlimit(process, getattr(resource, name), (most, most))

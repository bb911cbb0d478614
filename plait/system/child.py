"""Processes of this program's own, each of which ends when its stdin does, and so with the process that started it.

A `Sidecar` does one thing on its own. A `Child` exchanges messages, a JSON object and byte strings, with the process
that started it, and imports from the same places.
"""

import contextlib
import importlib
import json
import os
import queue
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

_SIZE = struct.Struct("<Q")
# The path is that of the process that starts it.
_START = "import sys; sys.path[:] = sys.argv[2:]; from plait.system.child import main; main(sys.argv[1])"


class Sidecar:
    """A process beside this one, as this one sees it.

    A session of its own keeps Ctrl-C from it: that is for this process, which then ends it in good order.

    Args:
        stdout: where that goes; by default nowhere.
        files: numbers of files that it inherits.
        environment: variables that it gets besides those of this process.
    """

    def __init__(
        self,
        *arguments: str,
        stdout: int = subprocess.DEVNULL,
        files: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        # `-P` keeps the working directory out of the search for modules.
        self._process = subprocess.Popen(
            [sys.executable, "-P", *arguments],
            stdin=subprocess.PIPE,
            stdout=stdout,
            pass_fds=files,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        self.stdin, self.stdout = self._process.stdin, self._process.stdout

    def close_stdin(self) -> None:
        """Let it end."""
        # Discard what was not written yet.
        with contextlib.suppress(OSError):
            if self.stdin:
                self.stdin.close()

    def kill(self, *, after_s: float = 0.0) -> int:
        """End it at once, or after some seconds if it has not ended; its code, minus the number of a signal."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            if after_s:
                self._process.wait(after_s)
        self._process.kill()
        return self._process.wait()


def on_stdin_end(then: Callable[[], object]) -> None:
    """In a process that was started as a `Sidecar`: have something called, in a thread, once it is to end."""

    def wait() -> None:
        # Not through `sys.stdin`, whose lock a thread that waits holds at the end of the process.
        while os.read(0, 4096):
            pass
        then()

    threading.Thread(target=wait, daemon=True).start()


@dataclass(frozen=True, eq=False)
class ChildMessage:
    """What one process sends the other."""

    fields: Mapping[str, object]
    parts: Sequence[bytes] = ()


class Child(Sidecar):
    """A child process, from the side of its parent: it calls `main` of `module` with a `ParentProcess`."""

    def __init__(self, module: str) -> None:
        super().__init__("-c", _START, module, *sys.path, stdout=subprocess.PIPE)
        self._sending = threading.Lock()

    def send(self, fields: Mapping[str, object], *parts: bytes) -> None:
        """Send a message; lost where it has ended, which `receive` reports."""
        with self._sending, contextlib.suppress(BrokenPipeError, ValueError):
            if self.stdin:
                _write(self.stdin, fields, parts)

    def receive(self) -> ChildMessage | None:
        """Wait for its next message; None if it has ended."""
        return _read(self.stdout) if self.stdout else None

    def ending(self) -> str:
        """Wait until it has ended; how it has, such as "was ended by signal 9"."""
        code = self._process.wait()
        self.close_stdin()
        if self.stdout:
            self.stdout.close()
        return f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"


class ParentProcess:
    """The process that started this one, as this one sees it.

    Made before anything else is imported, and from then on nothing comes between the messages: stdin is empty, what
    libraries or a user's part print to stdout goes to stderr, and this process leaves an interrupt to the other one.
    """

    def __init__(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._orders, self._answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
        with open(os.devnull, "rb") as nothing:  # noqa: PTH123
            os.dup2(nothing.fileno(), 0)
        os.dup2(2, 1)
        self._received: queue.SimpleQueue[ChildMessage] = queue.SimpleQueue()
        # From the start: to import what it is to do may take longer than the other process lives.
        threading.Thread(target=self._listen, daemon=True).start()

    def send(self, fields: Mapping[str, object], *parts: bytes) -> None:
        """Answer."""
        _write(self._answers, fields, parts)

    def receive(self) -> ChildMessage:
        """Wait for the next message."""
        return self._received.get()

    def _listen(self) -> None:
        while message := _read(self._orders):
            self._received.put(message)
        os._exit(0)


def main(module: str) -> None:
    """Run in the child process."""
    parent = ParentProcess()
    importlib.import_module(module).main(parent)


def _write(pipe: IO[bytes], fields: Mapping[str, object], parts: Sequence[bytes]) -> None:
    head = json.dumps({"fields": fields, "sizes": [len(part) for part in parts]}).encode()
    pipe.write(_SIZE.pack(len(head)) + head)
    pipe.writelines(parts)
    pipe.flush()


def _read(pipe: IO[bytes]) -> ChildMessage | None:
    """The next message; None at the end, or where it is cut off."""
    start = pipe.read(_SIZE.size)
    if len(start) < _SIZE.size:
        return None
    (size,) = _SIZE.unpack(start)
    head = pipe.read(size)
    if len(head) < size:
        return None
    found = json.loads(head)
    parts = [pipe.read(each) for each in found["sizes"]]
    if [len(part) for part in parts] != found["sizes"]:
        return None
    return ChildMessage(found["fields"], parts)

"""A process that stays between the tasks of a SuperNode, with its libraries loaded and its base in memory.

Flower's deployment starts a process for every message. To import torch, transformers and PEFT takes it six seconds of
processor time, and the base is read again. With ``keep-s`` in the node's configuration it passes the task on to this
one instead, over a socket in the node's state directory, which only its user may open; the first task starts it, and it
ends after that many seconds without a task. It needs ``state``, because the context of a message does not last.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flwr.app import Context, RecordDict

from plait.errors import ConfigError, MachineError, PlaitError
from plait.files import make_private_directory
from plait.rounds.channel import Answering

_CREDENTIALS = struct.Struct("3i")  # process, user and group
_SIZES = struct.Struct("<QQ")
_ANSWER, _ERROR = 0, 1
_LONGEST_PATH = 100  # of a socket
_START_S = 300.0
_PAUSE_S = 0.05
_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Kept:
    """Answers the tasks of a context by the process that stays.

    Attributes:
        keep_s: how long it waits for the next task.
        start: starts it; what it gives back tells how that process ended, None as long as it has not.
    """

    context: Context
    path: Path
    keep_s: int
    start: Callable[[Path, int], Callable[[], int | None]]

    @classmethod
    def of(cls, context: Context) -> Kept | None:
        """As the node's configuration says; None if it does not ask for it.

        Raises:
            ConfigError: it lacks something.
        """
        node = context.node_config
        keep_s, state = node.get("keep-s", 0), str(node.get("state", ""))
        if not keep_s:
            return None
        if not isinstance(keep_s, int) or keep_s < 0:
            raise ConfigError(f"keep-s of the node's configuration is {keep_s!r}, expected whole seconds")
        if not state:
            raise ConfigError(f"keep-s of the node's configuration is {keep_s}, expected state=DIRECTORY beside it")
        # Of this version of the app: a run may bring another.
        told = json.dumps([str(_ROOT), dict(node)], sort_keys=True)
        path = Path(state).absolute() / f"kept-{hashlib.sha256(told.encode()).hexdigest()[:12]}"
        if len(os.fsencode(path)) > _LONGEST_PATH:
            raise ConfigError(f"path of the socket '{path}' is too long for keep-s, expected a shorter state")
        return cls(context, path, keep_s, start)

    def answer(self, task_bytes: bytes) -> bytes:
        """Do one task.

        Raises:
            MachineError: the process cannot be started, or ends again and again.
            PlaitError: as it says.
        """
        context = self.context
        told = json.dumps([context.run_id, context.node_id, dict(context.node_config), dict(context.run_config)])
        for _ in range(2):
            with self._connected() as line, contextlib.suppress(ConnectionError):
                _send(line, told.encode(), task_bytes)
                status, data = _receive(line)
                if status == bytes([_ERROR]):
                    raise PlaitError(data.decode())
                return data
        raise MachineError(f"the process at '{self.path}' ended during the task, twice; its log is beside it")

    def _connected(self) -> socket.socket:
        end = time.monotonic() + _START_S
        ended: Callable[[], int | None] = int  # 0, as if one had ended: so one is started
        while True:
            line = socket.socket(socket.AF_UNIX)
            try:
                line.connect(str(self.path))
                _check_owner(line, self.path)
            except (FileNotFoundError, ConnectionRefusedError) as error:
                line.close()
                status = ended()
                if status or time.monotonic() > end:
                    raise MachineError(f"no process answers at '{self.path}'; its log is beside it") from error
                if status == 0:
                    # One that has found another in its place ends well, and that other may have ended meanwhile.
                    ended = self._start()
                time.sleep(_PAUSE_S)
            except OSError as error:
                line.close()
                raise MachineError(f"cannot open '{self.path}': {error.strerror or error}") from error
            else:
                return line

    def _start(self) -> Callable[[], int | None]:
        try:
            make_private_directory(self.path.parent)
            return self.start(self.path, self.keep_s)
        except OSError as error:
            raise MachineError(f"cannot start a process at '{self.path}': {error.strerror or error}") from error


def _check_owner(line: socket.socket, path: Path) -> None:
    """Raise PermissionError if another user's process has put its socket there (Linux only)."""
    if sys.platform == "linux":
        _, user, _ = _CREDENTIALS.unpack(line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if user != os.geteuid():
            raise PermissionError(errno.EACCES, f"its process is of user {user}, expected {os.geteuid()}", str(path))


def start(path: Path, keep_s: int) -> Callable[[], int | None]:
    """Start the process that stays; one that finds another in its place ends at once."""
    paths = os.pathsep.join((str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])))
    with _private(path.with_suffix(".log")).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "client.keeper", str(path), str(keep_s)],
            env={**os.environ, "PYTHONPATH": paths},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        ).poll


def serve(path: Path, keep_s: float, participants: Callable[[Context], Answering]) -> None:
    """Answer tasks, one by one, until none has come for so long."""
    with _private(path.with_suffix(".lock")).open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
            path.chmod(0o600)  # before it listens
            server.listen()
            server.settimeout(keep_s)
            while line := _next(server):
                with line:
                    _answer_one(line, participants)
            path.unlink(missing_ok=True)


def _next(server: socket.socket) -> socket.socket | None:
    try:
        line, _ = server.accept()
    except TimeoutError:
        return None
    line.settimeout(None)
    return line


def _answer_one(line: socket.socket, participants: Callable[[Context], Answering]) -> None:
    try:
        task = _receive(line)
    except ConnectionError:
        return
    # Whatever else goes wrong in it ends this process, and is in its log.
    answer = _answer(*task, participants)
    with contextlib.suppress(ConnectionError):
        _send(line, *answer)


def _private(path: Path) -> Path:
    """Create this file so that only its owner can ever read it."""
    path.touch(mode=0o600)
    return path


def _answer(told: bytes, task_bytes: bytes, participants: Callable[[Context], Answering]) -> tuple[bytes, bytes]:
    run_id, node_id, node_config, run_config = json.loads(told)
    context = Context(
        run_id=run_id, node_id=node_id, node_config=node_config, state=RecordDict(), run_config=run_config
    )
    try:
        return bytes([_ANSWER]), participants(context).answer(task_bytes)
    except PlaitError as error:
        return bytes([_ERROR]), str(error).encode()


def _send(line: socket.socket, head: bytes, body: bytes) -> None:
    line.sendall(_SIZES.pack(len(head), len(body)) + head)
    line.sendall(body)


def _receive(line: socket.socket) -> tuple[bytes, bytes]:
    head, body = _SIZES.unpack(_read(line, _SIZES.size))
    return _read(line, head), _read(line, body)


def _read(line: socket.socket, size: int) -> bytes:
    data = bytearray(size)
    view, got = memoryview(data), 0
    while got < size:
        count = line.recv_into(view[got:])
        if not count:
            raise ConnectionResetError("the other end is gone")
        got += count
    return bytes(data)


def main() -> None:
    """The process."""
    from client.contexts import ContextParticipants

    serve(Path(sys.argv[1]), float(sys.argv[2]), ContextParticipants())


if __name__ == "__main__":
    main()

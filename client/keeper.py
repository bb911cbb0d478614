"""A process that stays between the tasks of a SuperNode, with its libraries loaded and its base in memory.

Flower's deployment starts a process for every message. To import torch, transformers and PEFT takes it six seconds of
processor time, and the base is read again. With ``keep-s`` in the node's configuration it passes the task on to this
one instead, over a socket in the node's state directory, which only its user reaches; the first task starts it, and it
ends once nothing has come for so many seconds. It needs ``state``, because the context of a message does not last.
"""

from __future__ import annotations

import contextlib
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
from plait.flower.apps import Answering

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
        path: of its socket.
        keep_s: how long it waits for the next task.
        start: starts it.
    """

    context: Context
    path: Path
    keep_s: int
    start: Callable[[Path, int], object]

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
        end, started = time.monotonic() + _START_S, False
        while True:
            line = socket.socket(socket.AF_UNIX)
            try:
                line.connect(str(self.path))
            except (FileNotFoundError, ConnectionRefusedError) as error:
                line.close()
                if time.monotonic() > end:
                    raise MachineError(f"no process answers at '{self.path}'; its log is beside it") from error
                if not started:
                    started = True
                    make_private_directory(self.path.parent)
                    self.start(self.path, self.keep_s)
                time.sleep(_PAUSE_S)
            else:
                return line


def start(path: Path, keep_s: int) -> None:
    """Start the process that stays; one that finds another in its place ends at once."""
    paths = os.pathsep.join((str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])))
    with path.with_suffix(".log").open("ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "client.keeper", str(path), str(keep_s)],
            env={**os.environ, "PYTHONPATH": paths},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def serve(path: Path, keep_s: float, participants: Callable[[Context], Answering]) -> None:
    """Answer tasks, one by one, until none has come for so long."""
    with path.with_suffix(".lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
            server.listen()
            server.settimeout(keep_s)
            try:
                while True:
                    line, _ = server.accept()
                    line.settimeout(None)
                    with line, contextlib.suppress(ConnectionError):
                        _send(line, *_answer(*_receive(line), participants))
            except TimeoutError:
                path.unlink(missing_ok=True)


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

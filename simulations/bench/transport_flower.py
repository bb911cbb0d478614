"""Flower's own engine: a SuperLink, SuperNodes, and an app that carries bytes down and up, without TLS and keys.

The app and the script that starts everything are in ``simulations/transport/flower``; this only tells the app, over a
socket, what to send. Knows nothing of Flower.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from plait.errors import MachineError

_COUNT_BYTES = 8
_END_S = 60.0


class FlowerEngine:
    """Flower's engine while it is entered.

    Args:
        nodes: number of nodes; `round` sends to all of them.
        folder: for its output.
        environment: of its processes.
    """

    def __init__(self, nodes: int, folder: Path, environment: Mapping[str, str]) -> None:
        self._nodes = nodes
        self._folder = folder
        # Flower starts its parts by name.
        path = os.pathsep.join((str(Path(sys.executable).parent), environment.get("PATH", "")))
        self._environment = {**environment, "PATH": path}
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._line: socket.socket | None = None

    def __enter__(self) -> Self:
        script = Path(__file__).parents[1] / "transport" / "flower" / "run.sh"
        port = int(self._listening.getsockname()[1])
        self._process = subprocess.Popen(
            [str(script), str(self._folder), str(self._nodes), str(port)],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for line in (self._line, self._listening):
            if line is not None:
                line.close()
        try:
            # Without its connection the app ends, and so does the script.
            self._process.wait(_END_S if kind is None and self._line is not None else 0)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait()

    def wait_for_nodes(self, timeout_s: float) -> bool:
        """Whether the app, which waits for its nodes, connected in time.

        Raises:
            MachineError: the engine ended before that.
        """
        if self._process.poll() is not None:
            raise MachineError(f"Flower's engine ended with {self._process.returncode}: see its logs")
        self._listening.settimeout(timeout_s)
        try:
            self._line, _ = self._listening.accept()
        except TimeoutError:
            return False
        self._line.settimeout(None)
        return True

    def round(self, body: bytes) -> None:
        """Send all nodes a body and wait until each has returned it.

        Raises:
            MachineError: not all of it came back.
        """
        if self._line is None:
            raise MachineError("Flower's app has not called yet")
        self._line.sendall(len(body).to_bytes(_COUNT_BYTES, "big") + body)
        count = self._line.recv(_COUNT_BYTES, socket.MSG_WAITALL)
        if int.from_bytes(count, "big") != self._nodes * len(body):
            raise MachineError(f"Flower's nodes sent back {int.from_bytes(count, 'big')} bytes of {len(body)} each")

"""The cost of the machine itself: bare TCP sockets on loopback, the same bytes down and up, no frames and no TLS.

    python -m simulations.bench.transport_sockets PORT

is a node of it.
"""

from __future__ import annotations

import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import Self

_COUNT_BYTES = 8
_READ_BYTES = 1 << 20


def send(line: socket.socket, data: bytes) -> None:
    """The number of bytes that follow, then these."""
    line.sendall(len(data).to_bytes(_COUNT_BYTES, "big"))
    line.sendall(data)


def receive(line: socket.socket) -> bytearray | None:
    """What `send` sent; None if the other end is gone."""
    count = bytearray(_COUNT_BYTES)
    if not _fill(line, count):
        return None
    data = bytearray(int.from_bytes(count, "big"))
    return data if _fill(line, data) else None


def _fill(line: socket.socket, buffer: bytearray) -> bool:
    view = memoryview(buffer)
    while view:
        read = line.recv_into(view, min(len(view), _READ_BYTES))
        if not read:
            return False
        view = view[read:]
    return True


class SocketServer:
    """Serves bare nodes on loopback while it is entered.

    Args:
        nodes: number of nodes; `round` sends to all of them.
    """

    def __init__(self, nodes: int) -> None:
        self._nodes = nodes
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._lines: list[socket.socket] = []
        self._pool = ThreadPoolExecutor(nodes)
        self.port = int(self._listening.getsockname()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for line in (*self._lines, self._listening):
            line.close()
        self._pool.shutdown()

    def wait_for_nodes(self, timeout_s: float) -> bool:
        """Whether all nodes connected in time."""
        self._listening.settimeout(timeout_s)
        try:
            while len(self._lines) < self._nodes:
                line, _ = self._listening.accept()
                line.settimeout(None)
                line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._lines.append(line)
        except TimeoutError:
            return False
        return True

    def round(self, body: bytes) -> None:
        """Send all nodes a body and wait until each has returned it."""
        if not all(self._pool.map(_round_trip, self._lines, repeat(body))):
            raise RuntimeError("a bare node went away, or answered with something else")


def _round_trip(line: socket.socket, body: bytes) -> bool:
    send(line, body)
    answer = receive(line)
    return answer is not None and len(answer) == len(body) and answer.startswith(body)


def main(port: str) -> None:
    """A bare node: echoes whatever it receives."""
    with socket.create_connection(("127.0.0.1", int(port))) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while (body := receive(line)) is not None:
            send(line, bytes(body))


if __name__ == "__main__":
    main(*sys.argv[1:])

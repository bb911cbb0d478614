"""The cost of gRPC itself: nodes on one bidirectional stream, frames of 1 MB down and up, nothing checked or kept.

    python -m simulations.bench.transport_raw SERVER [KIT]

is a node of it.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self, cast

import grpc

from plait.transport.credentials import CHANNEL_OPTIONS, SERVER_OPTIONS, channel_credentials, server_credentials
from plait.transport.protocol import CHUNK_BYTES
from plait.trust.kit import ClientKit, ServerKit

_SERVICE, _METHOD = "bench.Raw", "Talk"
_COUNT_BYTES = 8


def frames(data: bytes) -> Iterator[bytes]:
    """The number of bytes that follow, then these in frames."""
    yield len(data).to_bytes(_COUNT_BYTES, "big")
    for start in range(0, len(data), CHUNK_BYTES):
        yield data[start : start + CHUNK_BYTES]


def receive(stream: Iterator[bytes]) -> bytes | None:
    """What `frames` made; None at the end of the stream."""
    first = next(stream, None)
    if first is None:
        return None
    left, parts = int.from_bytes(first, "big"), list[bytes]()
    while left > 0:
        part = next(stream)
        left -= len(part)
        parts.append(part)
    return b"".join(parts)


class RawServer:
    """Serves raw nodes on loopback while it is entered.

    Args:
        nodes: number of nodes; `round` sends to all of them.
        kit: for TLS; None for none.
    """

    def __init__(self, nodes: int, kit: ServerKit | None) -> None:
        self._nodes = nodes
        self._body = b""
        self._answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._lines: list[queue.SimpleQueue[bytes | None]] = []
        self._all_here = threading.Event()
        self._lock = threading.Lock()
        self._server = grpc.server(ThreadPoolExecutor(nodes + 2), options=list(SERVER_OPTIONS))
        handler = grpc.stream_stream_rpc_method_handler(self._talk)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: handler}),))
        port = (
            self._server.add_insecure_port("127.0.0.1:0")
            if kit is None
            else self._server.add_secure_port("127.0.0.1:0", server_credentials(kit))
        )
        self.address = f"127.0.0.1:{port}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        for line in self._lines:
            line.put(None)
        self._server.stop(1).wait()

    def wait_for_nodes(self, timeout_s: float) -> bool:
        """Whether all nodes connected in time."""
        return self._all_here.wait(timeout_s)

    def round(self, body: bytes) -> None:
        """Send all nodes a body and wait until each has returned it."""
        self._body = body
        for line in self._lines:
            line.put(body)
        for _ in self._lines:
            if not self._answers.get():
                raise RuntimeError("a raw node went away, or answered with something else")

    def _talk(self, said: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        del context
        line: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        with self._lock:
            self._lines.append(line)
            if len(self._lines) == self._nodes:
                self._all_here.set()

        def listen() -> None:
            try:
                while (answer := receive(said)) is not None:
                    self._answers.put(answer == self._body)
            except Exception:
                # gRPC raises a bare one where a call is gone.
                self._answers.put(False)

        threading.Thread(target=listen, daemon=True).start()
        while (body := line.get()) is not None:
            yield from frames(body)


def main(server: str, kit: str = "") -> None:
    """A raw node: echoes whatever it receives."""
    options = list(CHANNEL_OPTIONS)
    channel = (
        grpc.secure_channel(server, channel_credentials(ClientKit.load(Path(kit))), options=options)
        if kit
        else grpc.insecure_channel(server, options=options)
    )
    with channel:
        outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

        def speak() -> Iterator[bytes]:
            while (body := outgoing.get()) is not None:
                yield from frames(body)

        said = cast("Iterator[bytes]", channel.stream_stream(f"/{_SERVICE}/{_METHOD}")(speak()))
        while (body := receive(said)) is not None:
            outgoing.put(body)
        outgoing.put(None)


if __name__ == "__main__":
    main(*sys.argv[1:])

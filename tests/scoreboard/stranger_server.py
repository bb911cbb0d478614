"""A server of a stranger's that answers `plait fetch` with whatever the name of the run says."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc

from plait.v1 import federation_pb2 as pb
from plait.v1.federation_pb2_grpc import OperationsServicer, add_OperationsServicer_to_server

SENT: Mapping[str, tuple[tuple[str, int, bytes], ...]] = {
    "honest": (("ledger.jsonl", 2, b"{}"), ("adapter/adapter_config.json", 2, b"{}"), ("loss_by_round.png", 0, b"")),
    "outside": (("../ran", 4, b"evil"),),
    "absolute": (("/tmp/ran", 4, b"evil"),),
    "code": (("config.toml", 0, b""), ("evil.py", 4, b"evil")),
    "hidden": ((".ledger.jsonl", 4, b"evil"),),
    "deep": (("adapter/../../ran", 4, b"evil"),),
    "weights that run": (("adapter/pytorch_model.bin", 4, b"evil"),),
    "huge": (("ledger.jsonl", 10**12, b"evil"),),
    "many": tuple((f"{number}.png", 0, b"") for number in range(1000)),
    "twice": (("config.toml", 4, b"evil"), ("config.toml", 4, b"evil")),
    "more": (("config.toml", 2, b"evil"),),
    "less": (("config.toml", 9, b"evil"),),
    "nothing": (),
}
"""By name of the run: place, stated size and bytes of each file."""


class _Stranger(OperationsServicer):
    def Fetch(self, request: pb.FetchRequest, context: grpc.ServicerContext) -> Iterator[pb.FilePart]:
        del context
        for place, size, data in SENT[request.run.replace("-", " ")]:
            yield pb.FilePart(start=pb.FileStart(path=place, size=size))
            if data:
                yield pb.FilePart(data=data)


@contextmanager
def stranger_server() -> Generator[str]:
    """Serves on loopback; gives the address."""
    server = grpc.server(ThreadPoolExecutor(2))
    add_OperationsServicer_to_server(_Stranger(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()

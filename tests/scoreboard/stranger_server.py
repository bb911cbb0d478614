"""A server of a stranger's that answers `plait fetch` with whatever the name of the run says."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc

from plait.v1 import federation_pb2 as pb
from plait.v1.federation_pb2_grpc import OperationsServicer, add_OperationsServicer_to_server

SENT: Mapping[str, tuple[tuple[str, bytes], ...]] = {
    "honest": (("ledger.jsonl", b"{}"), ("adapter/adapter_config.json", b"{}"), ("loss_by_round.png", b"")),
    "outside": (("../ran", b"evil"),),
    "absolute": (("/tmp/ran", b"evil"),),
    "code": (("config.toml", b""), ("evil.py", b"evil")),
    "hidden": ((".ledger.jsonl", b"evil"),),
    "deep": (("adapter/../../ran", b"evil"),),
    "weights that run": (("adapter/pytorch_model.bin", b"evil"),),
    "huge": (("ledger.jsonl", bytes(1 << 20)),) * 20,
    "many": tuple((f"{number}.png", b"") for number in range(1000)),
    "nothing": (),
}
"""By name of the run: place and bytes of each part."""


class _Stranger(OperationsServicer):
    def Fetch(self, request: pb.FetchRequest, context: grpc.ServicerContext) -> Iterator[pb.FilePart]:
        del context
        for place, data in SENT[request.run.replace("-", " ")]:
            yield pb.FilePart(path=place, data=data)


@contextmanager
def stranger_server() -> Generator[str]:
    server = grpc.server(ThreadPoolExecutor(2))
    add_OperationsServicer_to_server(_Stranger(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()

"""Those whom the row `directories` has beside its victim: a stranger's server, which answers `plait fetch` with what
the name of the run says, and a visitor of the page of `plait report --live`, who then ends it as Ctrl-C does.
"""

import http.client
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import urlsplit

import grpc

from plait.v1 import federation_pb2 as pb
from plait.v1.federation_pb2_grpc import OperationsServicer, add_OperationsServicer_to_server

PATIENCE_S = 180.0
visitors: set[int] = set()
"""Threads whose connections are the visitor's own."""
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


def visit_page(run: str, note: Callable[[str], None]) -> None:
    """Look at every part of the page of a run once it is served, and note what is not shown."""
    beside = __import__("plait.page.beside", fromlist=["shown_address"])
    shown = beside.shown_address

    def look(address: str) -> None:
        visitors.add(threading.get_ident())
        place = urlsplit(address)
        try:
            for path in ("/", "/api/runs", f"/api/runs/{run}"):
                connection = http.client.HTTPConnection(place.netloc, timeout=PATIENCE_S)
                connection.request("GET", f"{path}?{place.query}")
                status = connection.getresponse().status
                if status != http.client.OK:
                    note(f"answer {status} to {path}")
        except OSError as error:
            note(f"no answer: {error}")
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    def and_look(*given: object) -> str:
        address = shown(*given)
        threading.Thread(target=look, args=(address,), daemon=True).start()
        return address

    beside.shown_address = and_look

"""A minimal node, nothing but a gRPC stub, and grids on loopback for the tests of the server."""

from __future__ import annotations

import hashlib
import queue
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import grpc
import pytest
from flwr.app import Message

from plait.flower.blob import to_content
from plait.transport import (
    CHANNEL_OPTIONS,
    CHUNK_BYTES,
    PROTOCOL_VERSION,
    chunks_of,
    enrolment_bytes,
)
from plait.trust.keys import NodeKey
from plait.trust.provision import provision
from plait.v1 import federation_pb2 as pb
from plait.v1.federation_pb2_grpc import FederationStub
from server.grpc_grid import GrpcGrid
from server.hosting import Terms
from server.limits import Limits

BASE = b"b" * 32
MAX_ANSWER_BYTES = 8 << 20


class BareNode:
    """Speaks the protocol and knows nothing else; every wait ends after `patience_s`."""

    patience_s = 60.0

    def __init__(self, address: str, name: str, *, key: NodeKey | None = None, credentials=None) -> None:
        options = list(CHANNEL_OPTIONS)
        self.name = name
        self.key = key
        self.channel = (
            grpc.insecure_channel(address, options=options)
            if credentials is None
            else grpc.secure_channel(address, credentials, options=options)
        )
        self.stub = FederationStub(self.channel)
        self.session = b""
        self.said: queue.SimpleQueue[pb.FromNode | None] = queue.SimpleQueue()
        self.call = self.stub.Attend(iter(self.said.get, None), timeout=120)

    def say(self, **event) -> None:
        self.said.put(pb.FromNode(**event))

    def hear(self) -> pb.ToNode:
        return next(self.call)

    def heard_end(self) -> bool:
        return next(self.call, None) is None

    def hello(self, **changes) -> pb.Hello:
        key = b"" if self.key is None else self.key.public_bytes
        fields = {"protocol": PROTOCOL_VERSION, "name": self.name, "public_key": key, "nonce": b"n" * 32}
        return pb.Hello(**{**fields, **changes})

    def proof(self, challenge: pb.Challenge, hello: pb.Hello) -> pb.Proof:
        if self.key is None:
            return pb.Proof()
        signed = enrolment_bytes(
            challenge_nonce=challenge.nonce, hello_nonce=hello.nonce, public_key=hello.public_key, name=hello.name
        )
        return pb.Proof(signature=self.key.sign(signed))

    def enrol(self, **changes) -> pb.ToNode:
        """The welcome, or the refusal."""
        hello = self.hello(**changes)
        self.say(hello=hello)
        answer = self.hear()
        if answer.HasField("refused"):
            return answer
        self.say(proof=self.proof(answer.challenge, hello))
        answer = self.hear()
        self.session = answer.welcome.session
        return answer

    def attend(self, *, base: bytes = BASE) -> BareNode:
        """Enrol and be ready."""
        assert self.enrol().HasField("welcome")
        self.say(ready=pb.Ready(base_fingerprint=base, methods=["lora"], memory_bytes=1 << 30, device="cpu"))
        return self

    def work(self) -> pb.Work:
        event = self.hear()
        assert event.HasField("work"), event
        return event.work

    def body(self, work: pb.Work, *, offset: int = 0) -> bytes:
        request = pb.DownloadRequest(session=self.session, sha256=work.body_sha256, offset=offset)
        return b"".join(chunk.data for chunk in self.stub.Download(request, timeout=self.patience_s))

    def task(self, work: pb.Work) -> bytes:
        return work.head + (self.body(work) if work.body_bytes else b"")

    def held(self, task_id: str, answer: bytes) -> pb.HeldReply:
        digest = hashlib.sha256(answer).digest()
        return self.stub.Held(
            pb.HeldRequest(session=self.session, task_id=task_id, sha256=digest), timeout=self.patience_s
        )

    def start(self, task_id: str, answer: bytes, **changes) -> pb.UploadPart:
        fields = {
            "session": self.session,
            "task_id": task_id,
            "content": pb.CONTENT_PLAIT,
            "size": len(answer),
            "sha256": hashlib.sha256(answer).digest(),
        }
        return pb.UploadPart(start=pb.UploadStart(**{**fields, **changes}))

    def upload(self, task_id: str, answer: bytes, **changes) -> pb.Receipt:
        def parts() -> Iterator[pb.UploadPart]:
            yield self.start(task_id, answer, **changes)
            for chunk in chunks_of(answer, changes.get("offset", 0), chunk_bytes=CHUNK_BYTES):
                yield pb.UploadPart(data=bytes(chunk))

        return self.stub.Upload(parts(), timeout=self.patience_s)

    def leave(self) -> None:
        self.said.put(None)
        self.call.cancel()
        self.channel.close()


def _until(condition: Callable[[], bool], *, patience_s: float = 60.0) -> None:
    """Wait for something that happens in another thread."""
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def _send(grid: GrpcGrid, node: str, head: bytes, body: bytes = b"", *, kind: str = "train", group: str = "1") -> str:
    """Push a task; returns its message id."""
    numbers = {grid.node_name(number): number for number in _all_numbers(grid)}
    message = grid.create_message(to_content(head, body), kind, numbers[node], group)
    (message_id,) = grid.push_messages([message])
    return message_id


def _all_numbers(grid: GrpcGrid) -> list[int]:
    return [node.number for node in grid._sessions.all()]


def _replies(grid: GrpcGrid, message_ids: list[str], *, patience_s: float = 60.0) -> list[Message]:
    """All replies, in the order of the ids."""
    found: dict[str, Message] = {}
    end = time.monotonic() + patience_s
    while len(found) < len(message_ids):
        assert time.monotonic() < end, f"{len(found)} of {len(message_ids)} replies came in time"
        for reply in grid.pull_messages([each for each in message_ids if each not in found]):
            found[reply.metadata.reply_to_message_id] = reply
        if len(found) < len(message_ids):
            grid.wait(0.5)
    return [found[each] for each in message_ids]


@pytest.fixture
def make_grid(tmp_path):
    """Makes started grids, insecure by default; they are stopped at the end."""
    grids: list[GrpcGrid] = []

    def make(**changes) -> GrpcGrid:
        run_config = {"rounds": 3, "base": "tiny", "alpha": 0.5, "keep-updates": True}
        terms = Terms(7, changes.pop("run_config", run_config), changes.pop("base_fingerprint", BASE))
        own = {key: changes.pop(key) for key in ("summary",) if key in changes}
        inbox = changes.pop("inbox", tmp_path / "inbox")
        limits = {"max_answer_bytes": MAX_ANSWER_BYTES} | {
            key: changes.pop(key) for key in Limits.__dataclass_fields__ if key in changes
        }
        grid = GrpcGrid(changes.pop("listen", "127.0.0.1:0"), limits=Limits(**limits), **{"kit": None, **changes})
        grid.begin(terms, inbox=inbox, **own).start()
        grids.append(grid)
        return grid

    yield make
    for grid in grids:
        grid.stop()


@pytest.fixture
def grid(make_grid) -> GrpcGrid:
    return make_grid()


@contextmanager
def _attending(grid: GrpcGrid, *names: str):
    """Bare nodes that are ready."""
    nodes = [BareNode(grid.address, name).attend() for name in names]
    _until(lambda: {grid.node_name(number) for number in grid.get_node_ids()} >= set(names))
    try:
        yield nodes
    finally:
        for node in nodes:
            node.leave()


@pytest.fixture
def bare_node() -> type[BareNode]:
    return BareNode


@pytest.fixture
def attending():
    return _attending


@pytest.fixture
def until():
    return _until


@pytest.fixture
def send():
    return _send


@pytest.fixture
def replies():
    return _replies


@pytest.fixture
def federation(tmp_path):
    """Kits on disk: a server's, and those of alice and bob."""
    provision(tmp_path / "kits", ["alice", "bob"], ["localhost", "127.0.0.1"], now=datetime.now(UTC))
    return tmp_path / "kits"

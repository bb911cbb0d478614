"""A minimal node, nothing but a gRPC stub, and servers on loopback for the tests of the server."""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import grpc
import pytest

from plait.rounds.channel import NoAnswer, Purpose
from plait.transport.credentials import CHANNEL_OPTIONS, channel_credentials
from plait.transport.protocol import (
    CHUNK_BYTES,
    MESSAGE_TYPES,
    PROTOCOL_VERSION,
    chunks_of,
    enrolment_bytes,
    node_number,
)
from plait.trust.keys import NodeKey
from plait.trust.kit import ClientKit
from plait.trust.provision import provision
from plait.v1 import federation_pb2 as pb
from plait.v1.federation_pb2_grpc import FederationStub
from server.hosting import Terms
from server.nodes_channel import NodesChannel, NodesExchange
from server.uploads import Limits
from tests import waiting

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

    def answer(self, task_id: str, data: bytes, content: int = pb.CONTENT_PLAIT) -> pb.Receipt:
        """Over the long call."""
        self.say(answer=pb.Answer(task_id=task_id, content=content, data=data))
        event = self.hear()
        assert event.HasField("receipt"), event
        assert event.receipt.task_id == task_id
        return event.receipt

    def begin_upload(self, task_id: str, answer: bytes, *, chunks: int = 1, then: bytes = b""):
        """Upload so many chunks, which the server has on return; gives the call, and what lets it end with `then`."""
        hold, offset = threading.Event(), chunks * CHUNK_BYTES

        def parts() -> Iterator[pb.UploadPart]:
            yield self.start(task_id, answer)
            for start in range(0, offset, CHUNK_BYTES):
                yield pb.UploadPart(data=answer[start : start + CHUNK_BYTES])
            hold.wait(180)
            if then:
                yield pb.UploadPart(data=then)

        call = self.stub.Upload.future(parts())
        waiting.until(lambda: self.held(task_id, answer).offset == offset)
        return call, hold

    def leave(self) -> None:
        self.said.put(None)
        self.call.cancel()
        self.channel.close()


def send(
    channel: NodesChannel, node: str, head: bytes, body: bytes = b"", *, kind: str = "train", group: str = "1"
) -> NodesExchange:
    """Send a task; returns the exchange that waits for its answer."""
    (purpose,) = (each for each in Purpose if MESSAGE_TYPES[each] == kind)
    exchange = channel.exchange(purpose, group)
    exchange.send(node_number(node), (head, body))
    return exchange


def replies(sent: Sequence[NodesExchange], *, patience_s: float = 60.0) -> list[bytes | NoAnswer]:
    """The answers to tasks that were sent."""
    found = [exchange.receive(patience_s) for exchange in sent]
    assert None not in found, "some replies did not come in time"
    return [answer if isinstance(answer, NoAnswer) else bytes(answer) for _, answer in found]


@pytest.fixture
def make_channel(tmp_path):
    """Makes channels that serve, insecure by default; they are stopped at the end."""
    channels: list[NodesChannel] = []

    def make(**changes) -> NodesChannel:
        run_config = {"rounds": 3, "base": "tiny", "alpha": 0.5, "keep-updates": True}
        terms = Terms(7, changes.pop("run_config", run_config), changes.pop("base_fingerprint", BASE))
        own = {key: changes.pop(key) for key in ("progress",) if key in changes}
        inbox = changes.pop("inbox", tmp_path / "inbox")
        limits = {"max_answer_bytes": MAX_ANSWER_BYTES} | {
            key: changes.pop(key) for key in Limits.__dataclass_fields__ if key in changes
        }
        listen = changes.pop("listen", "127.0.0.1:0")
        channel = NodesChannel(listen, limits=Limits(**limits), **{"kit": None, **changes})
        channel.begin(terms, inbox=inbox, **own).start()
        channels.append(channel)
        return channel

    yield make
    for channel in channels:
        channel.stop()


@pytest.fixture
def channel(make_channel) -> NodesChannel:
    return make_channel()


@contextmanager
def attending(channel: NodesChannel, *names: str):
    """Bare nodes that are ready."""
    nodes = [BareNode(channel.address, name).attend() for name in names]
    waiting.until(lambda: {channel.identity(number).name for number in channel.nodes(0)} >= set(names))
    try:
        yield nodes
    finally:
        for node in nodes:
            node.leave()


@pytest.fixture
def given(channel):
    """A node with a task, what waits for the answer, and the task's name."""
    with attending(channel, "alice") as (alice,):
        sent = send(channel, "alice", b"task")
        yield alice, sent, alice.work().task_id


@pytest.fixture
def federation(tmp_path):
    """Kits on disk: a server's, and those of alice and bob."""
    provision(tmp_path / "kits", ["alice", "bob"], ["localhost", "127.0.0.1"], now=datetime.now(UTC))
    return tmp_path / "kits"


@pytest.fixture
def kits(federation) -> dict[str, ClientKit]:
    return {name: ClientKit.load(federation / "clients" / name) for name in ("alice", "bob")}


def node_of(channel: NodesChannel, kit: ClientKit, **changes) -> BareNode:
    """A node with a kit; `shown` is the kit whose certificate it shows."""
    credentials = channel_credentials(changes.pop("shown", kit))
    own = {"name": kit.name, "key": kit.node_key, "credentials": credentials}
    return BareNode(channel.address, **{**own, **changes})


def refusal(event: pb.ToNode) -> str:
    assert event.HasField("refused"), event
    assert event.refused.detail
    assert "\n" not in event.refused.detail
    return pb.RefusedReason.Name(event.refused.reason).removeprefix("REFUSED_REASON_")


def code(call, *args, **kwargs) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        call(*args, **kwargs)
    assert "\n" not in caught.value.details()
    return caught.value.code().name

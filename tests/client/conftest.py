"""A minimal federation server on loopback, and nodes in threads that connect to it."""

import hashlib
import io
import json
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import grpc
import pytest

from client.node import Node
from client.session import Backoff
from client.settings import NodeSettings
from client.task import Journal, OfferedRun, Style, TaskRunner, participant_runner
from plait.errors import check_abandoned
from plait.system.address import Address
from plait.v1 import federation_pb2 as pb
from plait.v1.federation_pb2_grpc import FederationServicer, add_FederationServicer_to_server
from tests.waiting import until

FINGERPRINT = bytes(range(32))
CHUNK = 1000


@dataclass
class FederationDouble(FederationServicer):
    """Remembers over restarts what a server has on its disk: answers, and parts of them."""

    run_id: int = 77
    run_config: str = "{}"
    base_fingerprint: bytes = FINGERPRINT
    refusal: pb.Refused | None = None
    tasks: dict[str, pb.Work] = field(default_factory=dict)
    bodies: dict[bytes, bytes] = field(default_factory=dict)
    parts: dict[str, bytearray] = field(default_factory=dict)
    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)
    late: set[str] = field(default_factory=set)
    cut_download_at: list[int] = field(default_factory=list)
    cut_upload_at: list[int] = field(default_factory=list)
    on_cut: Callable[[], None] = lambda: None
    stalled: threading.Event | None = None
    challenge_delay_s: float = 0.0
    out_of_turn: list[pb.FromNode] = field(default_factory=list)
    max_answer_bytes: int = 1 << 30
    hellos: list[pb.Hello] = field(default_factory=list)
    readies: list[pb.Ready] = field(default_factory=list)
    progress: list[pb.Progress] = field(default_factory=list)
    offsets: list[tuple[str, int]] = field(default_factory=list)
    port: int = 0

    def start(self) -> None:
        self.lines: list[queue.SimpleQueue[pb.ToNode | None]] = []
        self.sessions: set[bytes] = set()
        self.server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
        add_FederationServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port(f"127.0.0.1:{self.port}")
        self.server.start()

    def stop(self) -> None:
        for line in self.lines:
            line.put(None)
        self.server.stop(0).wait()

    def restart(self) -> None:
        self.stop()
        self.start()

    def say(self, message: pb.ToNode) -> None:
        self.lines[-1].put(message)

    def give(
        self, task_id: str, head: bytes, body: bytes = b"", *, message_type: str = "train", group: str = "1"
    ) -> None:
        digest = hashlib.sha256(body).digest() if body else b""
        self.bodies[digest] = body
        work = pb.Work(
            task_id=task_id,
            message_type=message_type,
            group_id=group,
            head=head,
            body_bytes=len(body),
            body_sha256=digest,
        )
        self.tasks[task_id] = work
        if self.readies and self.lines:
            self.say(pb.ToNode(work=work))

    def Attend(self, request_iterator: Iterator[pb.FromNode], context: grpc.ServicerContext) -> Iterator[pb.ToNode]:
        hello = next(request_iterator).hello
        self.hellos.append(hello)
        time.sleep(self.challenge_delay_s)
        yield pb.ToNode(challenge=pb.Challenge(nonce=bytes(32)))
        second = next(request_iterator)
        if not second.HasField("proof"):
            self.out_of_turn.append(second)
        if self.refusal is not None:
            yield pb.ToNode(refused=self.refusal)
            return
        session = secrets.token_bytes(32)
        self.sessions.add(session)
        line: queue.SimpleQueue[pb.ToNode | None] = queue.SimpleQueue()
        yield pb.ToNode(
            welcome=pb.Welcome(
                session=session,
                node_id=5,
                run_id=self.run_id,
                run_config_json=self.run_config,
                base_fingerprint=self.base_fingerprint,
                max_answer_bytes=self.max_answer_bytes,
            )
        )

        def listen() -> None:
            try:
                for message in request_iterator:
                    if message.HasField("progress"):
                        self.progress.append(message.progress)
                    elif message.HasField("answer"):
                        if message.answer.task_id in self.unknown or self.cut_upload_at:
                            context.cancel()
                        else:
                            line.put(pb.ToNode(receipt=self._answered(message.answer)))
                    elif message.HasField("ready"):
                        self.lines.append(line)
                        self.readies.append(message.ready)
                        for work in list(self.tasks.values()):
                            line.put(pb.ToNode(work=work))
            except grpc.RpcError:
                pass
            except Exception:
                # grpc raises a bare one where the call is gone; whatever else it may be, the call is over.
                pass
            line.put(None)

        threading.Thread(target=listen, daemon=True).start()
        while (message := line.get()) is not None:
            yield message

    def Download(self, request: pb.DownloadRequest, context: grpc.ServicerContext) -> Iterator[pb.Chunk]:
        self._check(request.session, context)
        body = self.bodies.get(request.sha256)
        if body is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "no open task of this node has this body")
        self.offsets.append(("download", request.offset))
        cut = self.cut_download_at.pop(0) if self.cut_download_at else len(body) + 1
        for start in range(request.offset, len(body), CHUNK):
            if self.stalled is not None:
                self.stalled.wait(180)
            if start >= cut:
                self.on_cut()
                context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
            yield pb.Chunk(data=body[start : start + CHUNK])

    def Held(self, request: pb.HeldRequest, context: grpc.ServicerContext) -> pb.HeldReply:
        self._check(request.session, context)
        if request.task_id in self.unknown:
            return pb.HeldReply(unknown=True)
        return pb.HeldReply(
            offset=len(self.parts.get(request.task_id, b"")),
            complete=request.task_id in self.answers,
            late=request.task_id in self.late,
        )

    def Upload(self, request_iterator: Iterator[pb.UploadPart], context: grpc.ServicerContext) -> pb.Receipt:
        start = next(request_iterator).start
        self._check(start.session, context)
        if start.task_id in self.unknown:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not asked for yet")
        self.offsets.append(("upload", start.offset))
        part = self.parts.setdefault(start.task_id, bytearray())
        del part[start.offset :]
        cut = self.cut_upload_at.pop(0) if self.cut_upload_at else start.size + 1
        for message in request_iterator:
            part += message.data
            if len(part) >= cut:
                context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
        assert len(part) == start.size
        assert hashlib.sha256(part).digest() == start.sha256
        return self._answered(pb.Answer(task_id=start.task_id, content=start.content, data=bytes(part)))

    def _answered(self, answer: pb.Answer) -> pb.Receipt:
        self.answers[answer.task_id] = (answer.content, answer.data)
        self.tasks.pop(answer.task_id, None)
        return pb.Receipt(task_id=answer.task_id, kept=answer.task_id not in self.late)

    def _check(self, session: bytes, context: grpc.ServicerContext) -> None:
        if session not in self.sessions:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no such session")


@pytest.fixture
def federation() -> Iterator[FederationDouble]:
    double = FederationDouble()
    double.start()
    yield double
    double.stop()


@dataclass
class HeldApp:
    """What does tasks in place of a participant; a test can hold up its work, and see what it was asked."""

    asked: list[bytes] = field(default_factory=list)
    steps: int = 0
    go_on: threading.Event = field(default_factory=threading.Event)

    def answer(self, task_bytes: bytes) -> bytes:
        self.asked.append(task_bytes)
        if task_bytes.startswith(b"slow"):
            while not self.go_on.wait(0.01):
                self.steps += 1
                check_abandoned()
        if task_bytes.startswith(b"secret"):
            raise ValueError(f"cannot tokenise {task_bytes!r}")
        return bytes(3 << 20) if task_bytes.startswith(b"big") else b"did " + task_bytes


@pytest.fixture
def held_app() -> HeldApp:
    return HeldApp()


class RunningNode:
    def __init__(self, settings: NodeSettings, open_runner: Callable[[OfferedRun], TaskRunner]) -> None:
        self.screen, self.error = io.StringIO(), None
        backoff = partial(Backoff, first_s=0.05, most_s=0.2)
        journal = Journal(Style.JSON, self.screen)
        self.node = Node(settings, open_runner, journal, backoff=backoff, progress_s=0.05)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.node.run()
        except BaseException as error:  # the test looks at it
            self.error = error

    def events(self, *names: str) -> list[dict[str, object]]:
        told = [json.loads(line) for line in self.screen.getvalue().splitlines()]
        return [event for event in told if not names or event["event"] in names]

    def end(self, timeout_s: float = 180.0) -> None:
        self.thread.join(timeout_s)
        assert not self.thread.is_alive()


StartNode = Callable[..., RunningNode]


@pytest.fixture
def start_node(federation: FederationDouble, held_app: HeldApp, tmp_path: Path) -> Iterator[StartNode]:
    started: list[RunningNode] = []

    def start(**changes: object) -> RunningNode:
        settings = NodeSettings(
            **{
                "server": Address("127.0.0.1", federation.port), "kit": None, "name": "ada", "data": "my.jsonl",
                "base": "", "trainer": "", "device": "auto", "dtype": "auto", "threads": 0, "state": tmp_path / "state",
                "max_memory_bytes": 0, **changes,
            }
        )  # fmt: skip
        able = {"methods": ["lora"], "memory_bytes": 8_000_000_000, "device": "cpu, float32"}
        ready = pb.Ready(base_fingerprint=FINGERPRINT, **able)
        started.append(RunningNode(settings, lambda _: participant_runner(held_app, ready=ready)))
        return started[-1]

    yield start
    held_app.go_on.set()
    for running in started:
        running.node.stop()
        running.end()


@pytest.fixture
def ready_node(federation: FederationDouble, start_node: StartNode) -> RunningNode:
    node = start_node()
    until(lambda: federation.readies, "the node to be ready")
    return node


@pytest.fixture
def busy_node(federation: FederationDouble, held_app: HeldApp, start_node: StartNode) -> RunningNode:
    """A node at work on a task that does not end by itself."""
    federation.give("1.train.0", b"slow")
    node = start_node()
    until(lambda: held_app.steps > 3, "work")
    return node

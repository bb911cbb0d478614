"""A real `plait client` over gRPC, and a server with false sizes and digests, floods or invalid messages.

After each lie the node must do an honest task as before it; its processor time and memory are the kernel's figures.
What a server's tasks, adapters, settings and run configurations may be is another row: tests of the client's own code.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scoreboard.processes import until
from scoreboard.row import Row
from scoreboard.small_federation import borrowed
from scoreboard.watched_client import cpu_s, memory_bytes

from plait.adapters import Layout
from plait.config import RunConfig
from plait.rounds.broadcasts import Broadcasts
from plait.rounds.run_state import initial_state
from plait.run import resolve
from plait.settle import settle
from plait.v1 import federation_pb2 as pb
from plait.wire.envelope import open_envelope
from plait.wire.messages import DescribeTask, Refusal, TrainTask, UpdateReply, decode_reply, encode_task
from plait.wire.welcome import welcome_table

NAME = "ada"
RUN_ID = 7
CONFIG = RunConfig(base="tiny", rounds=3, clients=2, threads=1)
BOMB = "(([a-z_.]+)+)+$"
OUTSIDE = "/hostile-outside"
TRAINER = "hostile_trainer:build"

MOST_CPU_S = 1.0
MOST_BYTES = 512 << 20
FLOOD = 2_000
_PATIENCE_S = 240.0
_HEAD = 1000
_QUICK = frozenset(
    {
        "work: garbage", "body: longer than declared", "flood: tasks of other names", "flood: withdrawals",
        "welcome: configuration 100,000 deep", "welcome: work before it", "run: without consent", "run: an unknown key",
    }
)  # fmt: skip

double = borrowed("client/conftest.py")


@dataclass
class HostileServer(double.FederationDouble):
    """Says what a test has it say."""

    forge: Callable[[pb.Welcome], Iterator[pb.ToNode]] | None = None
    body: Callable[[pb.DownloadRequest], Iterator[pb.Chunk]] | None = None
    welcomes: int = 0

    def Attend(self, request_iterator, context):
        """As the double, with the welcome forged once."""
        for message in super().Attend(request_iterator, context):
            if message.HasField("welcome"):
                self.welcomes += 1
                if self.forge is not None:
                    forge, self.forge = self.forge, None
                    yield from forge(message.welcome)
                    continue
            yield message

    def Download(self, request, context):
        """As the double, with the body forged once."""
        if self.body is not None:
            body, self.body = self.body, None
            yield from body(request)
            return
        yield from super().Download(request, context)

    def hang_up(self) -> None:
        """End all calls of the node, which comes back."""
        for line in self.lines:
            line.put(None)
        self.lines.clear()


@dataclass(frozen=True)
class Node:
    """The client's process."""

    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def cpu_s(self) -> float:
        return cpu_s(self.process.pid)

    def memory_bytes(self, key: str) -> int:
        return memory_bytes(key, self.process.pid)

    @property
    def is_over(self) -> bool:
        return self.process.poll() is not None

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for this, or for its end."""
        until(lambda: condition() or self.is_over, what, patience_s=_PATIENCE_S)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()

    def harm(self) -> str:
        """What it did that it should not."""
        path = self.folder / "harm"
        return path.read_text() if path.exists() else ""


@dataclass(frozen=True)
class Honest:
    """What an honest server of the run would send to the client."""

    run: Mapping[str, object]
    describe: bytes
    train: bytes
    layout: Layout
    fingerprint: bytes

    @classmethod
    def of_run(cls) -> Honest:
        run = resolve(settle(CONFIG))
        tasks, spec, start = run.settled.tasks, run.ranks.master.spec, initial_state(RUN_ID.to_bytes(16), run.ranks)
        broadcast = Broadcasts(start, run.ranks, run.base_fingerprint).leading_from(b"", 0)
        return cls(
            welcome_table(CONFIG.to_table()),
            b"".join(encode_task(DescribeTask(tasks.to_describe(), spec.text))),
            b"".join(encode_task(TrainTask(tasks.to_train(1, NAME), broadcast))),
            spec.layout,
            run.base_fingerprint,
        )


@dataclass
class Stage:
    """Server and node, and what the node answered before any lie."""

    server: HostileServer
    node: Node
    honest: Honest
    tasks: int = 0
    first: str = ""
    baseline_s: float = 0.0

    def work(self, **changes: object) -> pb.Work:
        """An honest piece of work, but for these."""
        self.tasks += 1
        head, body = self.honest.train[:_HEAD], self.honest.train[_HEAD:]
        digest = hashlib.sha256(body).digest()
        self.server.bodies[digest] = body
        fields = {
            "task_id": f"t{self.tasks}", "message_type": "train", "group_id": "1",
            "head": head, "body_bytes": len(body), "body_sha256": digest,
        }  # fmt: skip
        return pb.Work(**{**fields, **changes})

    def say(self, **changes: object) -> None:
        self.server.say(pb.ToNode(work=self.work(**changes)))

    def fresh(self, **changes: object) -> dict[str, object]:
        """A body that the node does not hold, and its digest."""
        body = os.urandom(5000)
        self.server.bodies[hashlib.sha256(body).digest()] = body
        return {"body_bytes": len(body), "body_sha256": hashlib.sha256(body).digest(), **changes}

    def do_honest_work(self) -> str:
        """Digests of what the node answers to an honest task; empty if it does not answer."""
        self.node.until(lambda: self.server.lines, "the node to be there")
        if self.node.is_over:
            return ""
        work = self.work()
        self.server.tasks[work.task_id] = work
        self.server.say(pb.ToNode(work=work))
        answers = self.server.answers
        self.node.until(lambda: work.task_id in answers, "an honest answer")
        if work.task_id not in answers:
            return ""
        content, data = answers[work.task_id]
        reply = decode_reply(data, max_bytes=1 << 31) if content == pb.CONTENT_PLAIT else None
        if not isinstance(reply, UpdateReply):
            return ""
        return open_envelope(reply.update, layout=self.honest.layout).delta.digest().hex()


Lie = Callable[[Stage], None]


def lies() -> Mapping[str, Lie]:
    found: dict[str, Lie] = {}

    def work(name: str, **changes: object) -> None:
        found[f"work: {name}"] = lambda stage: stage.say(**changes)

    def forged(name: str, messages: Callable[[Stage, pb.Welcome], Sequence[pb.ToNode]]) -> None:
        def lie(stage: Stage) -> None:
            _welcomed_again(stage, lambda honest: iter(messages(stage, honest)))

        found[f"welcome: {name}"] = lie

    def welcome(name: str, **changes: object) -> None:
        def message(_: Stage, honest: pb.Welcome) -> list[pb.ToNode]:
            for key, value in changes.items():
                setattr(honest, key, value)
            return [pb.ToNode(welcome=honest)]

        forged(name, message)

    def refused(name: str, **refusal: object) -> None:
        forged(name, lambda *_: [pb.ToNode(refused=pb.Refused(**refusal))])

    def body(name: str, give: Callable[[pb.DownloadRequest], Iterator[pb.Chunk]], **changes: object) -> None:
        def lie(stage: Stage) -> None:
            stage.server.body = give
            task = stage.work(**stage.fresh(**changes))
            stage.server.say(pb.ToNode(work=task))
            until(lambda: stage.server.body is None, "the download", patience_s=_PATIENCE_S)
            # A node asks for a body for as long as its server wants the task done.
            stage.server.say(pb.ToNode(withdraw=pb.Withdraw(task_id=task.task_id, reason="enough")))

        found[f"body: {name}"] = lie

    def flood(name: str, message: Callable[[Stage, int], pb.ToNode]) -> None:
        def lie(stage: Stage) -> None:
            for number in range(FLOOD):
                if stage.server.lines:
                    stage.server.say(message(stage, number))

        found[f"flood: {name}"] = lie

    work("no name", task_id="")
    work("a name of a megabyte", task_id="x" * (1 << 20))
    work("a name of control characters", task_id="\x1b[2J\x1b]0;own\x07")
    work("no type", message_type="")
    work("a type of none", message_type="hostile")
    work("a type with an action of none", message_type="train.hostile")
    work("a head of 65,537 bytes", head=bytes(65_537), body_bytes=0, body_sha256=b"")
    work("garbage", head=os.urandom(1000), body_bytes=0, body_sha256=b"")
    work("nothing", head=b"", body_bytes=0, body_sha256=b"")
    work("a body of 2**63 bytes", body_bytes=2**63)
    work("a body of 2**31 + 1 bytes", body_bytes=2**31 + 1)
    work("a body beyond the policy", body_bytes=2**31 - 1)
    work("a body and no digest", body_sha256=b"")
    work("a digest of 31 bytes", body_sha256=b"d" * 31)
    body("2**30 bytes declared, none come", lambda request: iter(()), body_bytes=2**30)
    body("2**30 bytes declared, 64 MB come", lambda request: _chunks(64, 1 << 20), body_bytes=2**30)
    body("longer than declared", lambda request: _chunks(64, 1 << 20))
    body("2,000 empty pieces", lambda request: _chunks(FLOOD, 0))
    body("2,000 pieces of one byte of the wrong body", lambda request: _chunks(FLOOD, 1))
    body("a piece of two megabytes", lambda request: _chunks(1, 2 << 20))
    works: Mapping[str, Callable[[int], dict[str, object]]] = {
        "tasks of other names": lambda n: {"task_id": f"flood{n}", "head": b"garbage", "body_bytes": 0},
        "tasks of 60 kB": lambda n: {"task_id": f"f{n}", "head": bytes(60_000)},
    }
    for name, of in works.items():
        flood(name, lambda stage, n, of=of: pb.ToNode(work=stage.work(**of(n), body_sha256=b"")))
    flood("one task again and again", lambda stage, number: pb.ToNode(work=stage.work(task_id="again")))
    flood("withdrawals", lambda stage, number: pb.ToNode(withdraw=pb.Withdraw(task_id=f"w{number}", reason=BOMB)))
    flood("goodbyes", lambda stage, number: pb.ToNode(drain=pb.Drain(finished=False)))
    flood("empty messages", lambda stage, number: pb.ToNode())
    flood("challenges", lambda stage, number: pb.ToNode(challenge=pb.Challenge(nonce=b"n" * 32)))
    welcome("configuration of nothing", run_config_json="")
    welcome("configuration of text", run_config_json="hello")
    welcome("configuration of a list", run_config_json="[]")
    welcome("configuration 100,000 deep", run_config_json='{"a":' * 100_000)
    welcome("configuration of tables", run_config_json='{"base": {"a": 1}}')
    welcome("session of a byte", session=b"s")
    welcome("fingerprint of a byte", base_fingerprint=b"f")
    forged("work before it", lambda stage, _: [pb.ToNode(work=stage.work())])
    forged("twice", lambda _, honest: [pb.ToNode(welcome=honest)] * 2)
    refused("refused, in control characters", reason=pb.REFUSED_REASON_FULL, detail="\x1b[2J\x1b]0;own\x07")
    refused("refused, for no reason there is", reason=77, detail="x" * 60_000)
    return found


def _chunks(count: int, size: int) -> Iterator[pb.Chunk]:
    return (pb.Chunk(data=bytes(size)) for _ in range(count))


def _welcomed_again(stage: Stage, forge: Callable[[pb.Welcome], Iterator[pb.ToNode]]) -> None:
    """Hang up, and forge the welcome of the node that comes back."""
    before = stage.server.welcomes
    stage.server.forge = forge
    stage.server.hang_up()
    stage.node.until(lambda: stage.server.welcomes > before, "the node to come back")
    stage.server.hang_up()


ASKS = 'consent = "ask"\n'


def unwanted_runs() -> Mapping[str, tuple[dict[str, object], str]]:
    """Run configurations that a node must not work for, and what else stands in its policy."""
    return {
        "without consent": ({}, ASKS),
        "a trainer": ({"trainer": TRAINER}, ""),
        "a base of a path": ({"base": OUTSIDE}, ""),
        "a base of the hub": ({"base": "somebody/model"}, ""),
        "embedding and output layer": ({"target-modules": "embed_tokens,lm_head", "rank": 1}, ""),
        "one step of one sequence": ({"local-steps": 1, "batch-size": 1}, ""),
        "2**32 - 1 sequences a batch": ({"batch-size": 2**32 - 1}, ""),
        "an unknown key": ({"hostile": 1}, ""),
        "where to write": ({"out": OUTSIDE}, ""),
        "a rate of NaN": ({"learning-rate": math.nan}, ""),
        "2**4000 rounds": ({"rounds": 2**4000}, ""),
    }


def run(*, full: bool, scratch: Path) -> Row:
    """Every lie, and what was wrong about how the node took it."""
    honest = Honest.of_run()
    every, unwanted = lies(), {f"run: {name}": run for name, run in unwanted_runs().items()}
    assert every.keys() | unwanted.keys() >= _QUICK
    chosen = {name: lie for name, lie in every.items() if full or name in _QUICK}
    said: dict[str, str] = {}
    server = HostileServer(run_id=RUN_ID, run_config=json.dumps(dict(honest.run)), base_fingerprint=honest.fingerprint)
    server.start()
    stage: Stage | None = None
    try:
        for name, lie in chosen.items():
            if stage is None or stage.node.is_over:
                stage = _staged(scratch, server, honest)
            said[name] = _outcome(stage, lie)
        if stage is not None:
            stage.node.end()
        for name, (changes, policy) in unwanted.items():
            if full or name in _QUICK:
                said[name] = _refuses_run(scratch, server, honest, changes, policy)
    finally:
        if stage is not None:
            stage.node.end()
        server.stop()
    return Row.of("a hostile server to a node", said, least=45 if full else 8)


def _started(scratch: Path, server: HostileServer, policy: str = "") -> Node:
    folder = scratch / os.urandom(4).hex()
    folder.mkdir(parents=True)
    data, own = folder / "data.jsonl", folder / "policy.toml"
    data.write_text(json.dumps({"text": Path(argparse.__file__).read_text()}) + "\n")
    own.write_text(f"max-download-gb = 0.0\n{policy}")
    script = Path(__file__).with_name("watched_client.py")
    command = [
        sys.executable, str(script), str(folder), "client", "--insecure", "--server", f"127.0.0.1:{server.port}",
        "--data", str(data), "--name", NAME, "--state", str(folder / "state"), "--policy", str(own), "--threads", "1",
        "--json",
    ]  # fmt: skip
    # What libraries want to keep somewhere.
    (folder / "tmp").mkdir()
    environment = {**os.environ, "TMPDIR": str(folder / "tmp"), "TORCHINDUCTOR_CACHE_DIR": str(folder / "tmp")}
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=folder, env=environment
        )
    return Node(process, folder)


def _staged(scratch: Path, server: HostileServer, honest: Honest) -> Stage:
    server.tasks.clear()
    server.forge = server.body = None
    stage = Stage(server, _started(scratch, server), honest)
    node = stage.node
    try:
        node.until(lambda: server.lines, "the node to be ready")
        stage.first = stage.do_honest_work()
        if not stage.first:
            raise RuntimeError("the node does no honest work")
        for _ in range(2):
            before = node.cpu_s
            stage.do_honest_work()
            stage.baseline_s = max(stage.baseline_s, node.cpu_s - before)
    except BaseException:
        node.end()
        raise
    return stage


def _outcome(stage: Stage, lie: Lie) -> str:
    node = stage.node
    Path(f"/proc/{node.process.pid}/clear_refs").write_text("5")
    at_rest, started = node.memory_bytes("VmRSS"), node.cpu_s
    try:
        lie(stage)
        answer = stage.do_honest_work()
        if node.is_over:
            return "the node ended"
        if answer != stage.first:
            return "an honest task after it is not done right"
        if harm := node.harm():
            return f"the node does {harm[:200]}"
        spent, taken = node.cpu_s - started - 2 * stage.baseline_s, node.memory_bytes("VmHWM") - at_rest
        if spent > MOST_CPU_S:
            return f"{spent:.1f} s of processor time"
        return f"{taken >> 20} MiB" if taken > MOST_BYTES else ""
    except Exception as error:
        node.end()
        return f"{type(error).__name__}: {str(error)[:200]}"


def _refuses_run(
    scratch: Path, server: HostileServer, honest: Honest, changes: Mapping[str, object], policy: str
) -> str:
    """A node that is welcomed to such a run must end in one line, or refuse its tasks."""
    attended = server.welcomes
    server.run_config = json.dumps({**honest.run, **changes})
    server.tasks.clear()
    task = f"unwanted {len(server.answers)}"
    server.give(task, honest.describe, message_type="query", group="0")
    node = _started(scratch, server, policy)
    try:
        node.until(lambda: task in server.answers, "the node")
        if task in server.answers:
            content, data = server.answers[task]
            if content == pb.CONTENT_PLAIT and not isinstance(decode_reply(data, max_bytes=1 << 20), Refusal):
                return "the node works for it"
        elif server.welcomes == attended:
            return "the node ended before it was welcomed"
        if harm := node.harm():
            return f"the node does {harm[:200]}"
        text = (node.folder / "out").read_text(errors="replace")
        return "a traceback" if "Traceback" in text else ""
    except TimeoutError as error:
        return str(error)
    finally:
        node.end()
        server.run_config = json.dumps(dict(honest.run))
        server.tasks.clear()
        server.hang_up()

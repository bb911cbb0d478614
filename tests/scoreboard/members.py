"""What one member, or a revoked one, can take from the others: attacks on a live federation over TLS.

Two honest nodes run a federation during the attack, which begins before they connect. Their run must end within twice
its undisturbed time, measured shortly before, with an allowance for a loaded machine, and count all their updates.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from scoreboard.hostile_client import memory_bytes
from scoreboard.processes import Job, attend, end, events, result, serve, start, until
from scoreboard.row import Row
from scoreboard.small_federation import borrowed, of_numbers

from plait.rounds.client_pipeline import ClientPipeline, PlainSender
from plait.rounds.memory import DiskMemory
from plait.rounds.participant import Participant
from plait.transport.credentials import channel_credentials, channel_options
from plait.transport.protocol import PROTOCOL_VERSION
from plait.trust.kit import ClientKit
from plait.trust.provision import provision, revoke
from plait.v1 import federation_pb2 as pb
from plait.v1.federation_pb2_grpc import FederationStub
from plait.wire.messages import decode_reply, encode_reply
from tests.waiting import unused_port

HONEST = ("alice", "bob")
NAMES = (*HONEST, "mallory")
ROUNDS = 2
WIDE = 300_000  # columns: a broadcast has 2.4 MB
ALLOWANCE_S = 10.0
PATIENCE_S = 60.0 if os.environ.get("PLAIT_SCOREBOARD_WITHOUT") else 180.0
QUESTIONS = 2  # that a node may be asked about itself
MORE_MEMORY_BYTES = 128 << 20
CALLS_AT_ONCE = 16  # that one name may have in progress


@dataclass(frozen=True)
class Attack:
    """One attack, whose work goes on until its process is killed; told the job, the port, and what to count in."""

    name: str
    work: Callable[[Job, int, Diary], None]
    joins: bool = False  # the attacker takes part, and the run waits for it at its start
    ranks: tuple[tuple[str, int], ...] = ()  # the clients' own; such a run has a small adapter

    @property
    def kind(self) -> tuple[bool, bool]:
        """What its run has in common with that of other attacks."""
        return self.joins, bool(self.ranks)


class Diary:
    """What an attacker has done so far, on disk for the row to read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}

    def count(self, what: str, number: int = 1) -> None:
        with self._lock:
            self._counts[what] = self._counts.get(what, 0) + number
            self._counts[f"most {what}"] = max(self._counts.get(f"most {what}", 0), self._counts[what])
            temporary = self._path.with_suffix(".tmp")
            temporary.write_text(json.dumps(self._counts))
            temporary.rename(self._path)


def run(*, full: bool, scratch: Path) -> Row:
    kits = scratch / "kits"
    provision(kits, [*NAMES, "eve"], ["localhost", "127.0.0.1"], now=datetime.now(UTC))
    revoke(kits, "eve", now=datetime.now(UTC))
    worst, complaints = 0.0, dict[str, str]()
    undisturbed: dict[tuple[bool, bool], _Outcome] = {}
    for number, attack in enumerate(ATTACKS):
        if full or attack.kind not in undisturbed:
            undisturbed[attack.kind] = _federate(scratch / f"{number}-alone", kits, attack, undisturbed=True)
        alone = undisturbed[attack.kind]
        attacked = _federate(scratch / f"{number}", kits, attack)
        complaints[attack.name] = _wrong(alone, attacked)
        worst = max(worst, attacked.seconds / alone.seconds)
    slowest = f"{worst:.1f} times as long as undisturbed"
    return Row.of("members against members", complaints, least=len(ATTACKS), slowest=slowest)


@dataclass(frozen=True)
class _Outcome:
    seconds: float
    updates: list[tuple[int, str]]
    peak_bytes: int
    done: dict[str, int]


def _wrong(alone: _Outcome, attacked: _Outcome) -> str:
    """What the attack achieved; empty for nothing."""
    expected = [(number, name) for number in range(1, ROUNDS + 1) for name in HONEST]
    if alone.updates != expected:
        return f"undisturbed, the updates {alone.updates} were counted, expected {expected}"
    if not attacked.done.get("tried"):
        return "the attack did not take place"
    if attacked.updates != expected:
        return f"the updates {attacked.updates} were counted, expected {expected}"
    if attacked.seconds > 2 * alone.seconds + ALLOWANCE_S:
        return f"the run took {attacked.seconds:.1f} s, undisturbed {alone.seconds:.1f} s"
    if attacked.done.get("served"):
        return f"{attacked.done['served']} of {attacked.done['tried']} calls were served"
    if attacked.done.get("most let in", 0) > CALLS_AT_ONCE:
        return f"{attacked.done['most let in']} calls of one name were let in at a time, not {CALLS_AT_ONCE}"
    if attacked.peak_bytes > alone.peak_bytes + MORE_MEMORY_BYTES:
        return f"the server took {attacked.peak_bytes >> 20} MiB, undisturbed {alone.peak_bytes >> 20} MiB"
    return ""


def _federate(folder: Path, kits: Path, attack: Attack, *, undisturbed: bool = False) -> _Outcome:
    plan = {"bits": "fp32", "rounds": ROUNDS, "clients": 3 if attack.joins else 2, "cohort_size": 3, "quorum": 2}
    if attack.ranks:
        plan["ranks"] = dict(attack.ranks)
    job = Job(folder, plan, NAMES, kits, train_s=0.2, wide=0 if attack.ranks else WIDE)
    job.folder.mkdir()
    port, diary = unused_port(), job.folder / "attack.json"
    processes = [server := start(serve, job, port)]
    try:
        until(lambda: _listens(port), "the server to listen", patience_s=PATIENCE_S)
        if not undisturbed:
            processes.append(start(_attack, attack.name, job, port))
            until(diary.exists, "the attack to begin", patience_s=PATIENCE_S)
        elif attack.joins:
            processes.append(start(_attack, HONESTLY.name, job, port))
        began = time.monotonic()
        processes += [start(attend, job, number, port) for number in range(len(HONEST))]
        peaks_bytes = [0]

        def is_over() -> bool:
            with suppress(OSError, StopIteration):  # it ends by itself
                peaks_bytes.append(memory_bytes("VmHWM", server.pid))
            return result(job) is not None or not server.is_alive()

        with suppress(TimeoutError):
            until(is_over, "the end of the run", patience_s=PATIENCE_S)
        seconds = time.monotonic() - began
    finally:
        end(processes)
    counted = sorted((event["round"], event["client"]) for event in events(job, "update_received"))
    done = json.loads(diary.read_text()) if diary.exists() else {}
    return _Outcome(seconds, [each for each in counted if each[1] in HONEST], max(peaks_bytes), done)


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
        return True
    return False


def _attack(name: str, job: Job, port: int) -> None:
    attack = next(each for each in (*ATTACKS, HONESTLY) if each.name == name)
    attack.work(job, port, Diary(job.folder / "attack.json"))


def _channel(kit: ClientKit, port: int) -> grpc.Channel:
    # Windows that do not grow, so that what is not read stays with the server.
    options = [*channel_options("localhost"), ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 16384)]
    return grpc.secure_channel(f"localhost:{port}", channel_credentials(kit), options=options)


def _kit(job: Job, name: str) -> ClientKit:
    return ClientKit.load(job.kits / "clients" / name)


def _take_part(
    job: Job,
    port: int,
    *,
    before: Callable[[object, pb.Work], None] = lambda node, work: None,
    answer: Callable[[object, pb.Work, bytes], None] = lambda node, work, data: node.upload(work.task_id, data),
) -> None:
    """Attend as mallory and do what is asked, with something else `before` each answer, or instead of sending it."""
    kit = _kit(job, "mallory")
    node = borrowed("server/conftest.py").BareNode(
        f"localhost:{port}", "mallory", key=kit.node_key, credentials=channel_credentials(kit)
    )
    node.attend(base=of_numbers.FINGERPRINT)
    memory = DiskMemory(job.folder / "mallory")
    way = ClientPipeline(PlainSender("mallory", kit.node_key.sign))
    participant = Participant("mallory", job.model(NAMES.index("mallory")), memory, way=way)
    with suppress(grpc.RpcError):  # the server has ended
        for event in node.call:
            if event.HasField("work"):
                task = node.task(event.work)
                before(node, event.work)
                with suppress(grpc.RpcError):
                    answer(node, event.work, participant.answer(task))


def _honestly(job: Job, port: int, diary: Diary) -> None:
    del diary
    _take_part(job, port)


def _unread_downloads(job: Job, port: int, diary: Diary) -> None:
    """128 downloads over 16 connections, of which nothing is read."""
    channels = [_channel(_kit(job, "mallory"), port) for _ in range(16)]
    unread: list[object] = []

    def flood(node, work: pb.Work) -> None:
        if work.body_bytes and not unread:
            request = pb.DownloadRequest(session=node.session, sha256=work.body_sha256)
            for _ in range(8):
                unread.extend(FederationStub(channel).Download(request) for channel in channels)
            diary.count("tried", len(unread))
            time.sleep(1.0)

    diary.count("began")
    _take_part(job, port, before=flood)


def _silent(job: Job, port: int, diary: Diary) -> None:
    """A node that is ready and answers nothing."""

    def wait(node, work: pb.Work) -> None:
        diary.count("tried")
        threading.Event().wait()

    diary.count("began")
    _take_part(job, port, before=wait)


def _many_ranks(job: Job, port: int, diary: Diary) -> None:
    """A description that states another largest rank every time."""
    asked: list[str] = []

    def answer(node, work: pb.Work, data: bytes) -> None:
        if work.message_type == "query":
            asked.append(work.task_id)
            diary.count("tried" if len(asked) <= QUESTIONS else "served")
            card = replace(decode_reply(data, max_bytes=len(data)), max_rank=2 - len(asked) % 2)
            data = encode_reply(card)
        node.upload(work.task_id, data)

    diary.count("began")
    _take_part(job, port, answer=answer)


def _idle_streams(job: Job, port: int, diary: Diary) -> None:
    """320 long calls over 40 connections that say hello and nothing more, begun again when they end."""
    kit = _kit(job, "mallory")
    hello = pb.Hello(protocol=PROTOCOL_VERSION, name="mallory", public_key=kit.node_key.public_bytes, nonce=bytes(32))

    def idle(channel: grpc.Channel) -> None:
        while True:
            with suppress(grpc.RpcError):
                call = FederationStub(channel).Attend(
                    chain([pb.FromNode(hello=hello)], iter(threading.Event().wait, True))
                )
                diary.count("tried")
                _stay(call)
            time.sleep(2.0)

    def _stay(call: Iterator[pb.ToNode]) -> None:
        """Wait for the server to end the call, which it has let in once it sends a challenge."""
        first = next(call, None)
        if first is None or not first.HasField("challenge"):
            return
        diary.count("let in")
        try:
            next(call, None)
        finally:
            diary.count("let in", -1)

    channels = [_channel(kit, port) for _ in range(40)]
    _together([lambda channel=channel: idle(channel) for channel in channels for _ in range(8)])


def _revoked(job: Job, port: int, diary: Diary) -> None:
    """A revoked kit: health checks and watches, and long calls, over 60 connections all the time."""
    kit = _kit(job, "eve")

    def call() -> None:
        channel = _channel(kit, port)
        health = health_pb2_grpc.HealthStub(channel)
        while True:
            for ask in (
                lambda: health.Check(health_pb2.HealthCheckRequest(), timeout=10),
                lambda: next(health.Watch(health_pb2.HealthCheckRequest(), timeout=10)),
            ):
                diary.count("tried")
                with suppress(grpc.RpcError):
                    ask()
                    diary.count("served")
            with suppress(grpc.RpcError):
                next(FederationStub(channel).Attend(iter(threading.Event().wait, True), timeout=10), None)
            time.sleep(1.0)

    _together([call] * 60)


def _strangers(job: Job, port: int, diary: Diary) -> None:
    """Without any certificate: 200 sockets, each opened again once the server hangs up."""
    del job
    guards = borrowed("server/test_guard.py")
    diary.count("tried", 200)
    _together([lambda: guards.reopen(f"127.0.0.1:{port}", threading.Event(), 25)] * 8)


def _replayed_hellos(job: Job, port: int, diary: Diary) -> None:
    """Without any certificate: one recorded ClientHello, sent again as fast as the server answers it."""
    del job
    outgoing = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    hello = outgoing.read()

    def replay() -> None:
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(hello)
                if connection.recv(1):
                    diary.count("tried")
                # Not left to the kernel's minute of waiting, which would use up this machine's ports.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    _together([replay] * 2)


def _pings(job: Job, port: int, diary: Diary) -> None:
    """HTTP/2's pings without end: gRPC wants to close such a connection, and does so once it has nothing to answer."""
    kit = job.kits / "clients" / "mallory"
    tls = ssl.create_default_context(cafile=kit / "ca.crt")
    tls.load_cert_chain(kit / "client.crt", kit / "client.key")
    tls.set_alpn_protocols(["h2"])
    settings, ping = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)), bytes((0, 0, 8, 6, 0, 0, 0, 0, 0)) + bytes(8)

    def flood() -> None:
        while True:
            with (
                suppress(OSError),
                socket.create_connection(("localhost", port)) as plain,
                tls.wrap_socket(plain, server_hostname="localhost") as connection,
            ):
                connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings)
                connection.settimeout(0.01)
                while True:
                    connection.sendall(ping * 100)
                    diary.count("tried", 100)
                    with suppress(TimeoutError):
                        if not connection.recv(1 << 16):
                            break

    _together([flood] * 2)


def _together(works: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


HONESTLY = Attack("honestly", _honestly, joins=True)
ATTACKS = (
    Attack("unread downloads", _unread_downloads, joins=True),
    Attack("idle streams", _idle_streams),
    Attack("revoked", _revoked),
    Attack("strangers", _strangers),
    Attack("replayed hellos", _replayed_hellos),
    Attack("pings", _pings),
    Attack("silent", _silent),
    Attack("many ranks", _many_ranks, ranks=(("alice", 2), ("bob", 2), ("mallory", 1))),
)
"""What is tried, in this order."""

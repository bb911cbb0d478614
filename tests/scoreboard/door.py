"""Unauthenticated peers: the memory they can take, and whether any of ten thousand unknown keys gets in. And members
who try what their role does not allow. And visitors of the live page who do not know its token, or whose browser is led
to it by another site's page, or who do not finish what they say.

Memory is measured from outside, on a server in a separate process, with hand-written HTTP/2. Unknown keys come over TLS
with a certificate of the right authority (a stolen one, for example); others with certificates of another authority.
"""

from __future__ import annotations

import queue
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import grpc
import httpx
from scoreboard.row import Row
from scoreboard.small_federation import TESTS, borrowed

from plait.page.app import Page, serve
from plait.transport.credentials import CHANNEL_OPTIONS, channel_credentials
from plait.trust.keys import NodeKey
from plait.trust.kit import ClientKit, ServerKit, StaffKit
from plait.trust.provision import provision, revoke
from plait.v1 import federation_pb2 as pb
from plait.v1.federation_pb2_grpc import FederationStub, OperationsStub
from server.hosting import Terms
from server.nodes_channel import NodesChannel
from server.standing import calls_of
from server.uploads import Limits

MOST_BYTES = 16 << 20
CONNECTIONS = 6
STRANGERS = 200


def run(*, full: bool, scratch: Path) -> Row:
    seconds = 3.0 if full else 1.5
    most = {call: _bytes_a_connection(scratch / call, call, seconds) for call in ("Attend", "Upload", "Status")}
    unknown, admitted, reasons = _unknown_keys(scratch, 10_000 if full else 300, STRANGERS if full else 10)
    # What was tried, how often, and how often it was wrong.
    counts = {
        "connections of more than 16 MiB": (len(most), sum(held > MOST_BYTES for held in most.values())),
        "unknown keys admitted": (unknown, admitted),
        "acts beyond a role accepted": _beyond_roles(scratch, 1000 if full else 60),
        "strangers answered by the page": strangers(scratch / "page", 1000 if full else 90),
        "looks in vain beside unfinished requests": pressed(scratch / "page", 1000 if full else 500),
    }
    failures = [f"{wrong} of {tried} {what}" for what, (tried, wrong) in counts.items() if wrong]
    if set(reasons) - {"UNKNOWN_KEY", "WRONG_NAME", "no TLS"}:
        failures.append(f"refused as {reasons}, expected an unknown key, another name than certified, or no TLS")
    figures = {what: f"{wrong} of {tried:,}" for what, (tried, wrong) in counts.items()}
    figures = {"at most": f"{max(most.values()) / 2**20:.1f} MiB a connection", **figures}
    tried = sum(tried for tried, _ in counts.values())
    passed, least = tried - sum(wrong for _, wrong in counts.values()), 10_000 if full else 300
    return Row("unauthenticated: memory, unknown keys, roles", tried, passed, figures, failures, least)


@contextmanager
def _server(folder: Path) -> Generator[tuple[int, int]]:
    """A server in a process of its own: its port and its process."""
    without = "from scoreboard.mutations import take_out_named; take_out_named()\n"
    code = f"import sys; sys.path[:0] = {[str(TESTS), str(TESTS.parent)]!r}\n{without}"
    code += borrowed("server/test_memory.py").SERVE
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        yield int(process.stdout.readline()), process.pid
        process.stdin.close()
        process.wait(timeout=180)


def _bytes_a_connection(folder: Path, call: str, seconds: float) -> float:
    """How much more memory the server has at its peak, for each of a few connections that hoard calls."""
    most_added_bytes = borrowed("server/test_memory.py").most_added_bytes
    with _server(folder) as (port, process):
        return most_added_bytes(port, process, call, connections=CONNECTIONS, seconds=seconds) / CONNECTIONS


def _unknown_keys(scratch: Path, count: int, strangers: int) -> tuple[int, int, dict[str, int]]:
    """How many knocked, how many came in, and why the others did not."""
    now = datetime.now(UTC)
    provision(scratch / "kits", ["alice"], ["localhost", "127.0.0.1"], now=now)
    provision(scratch / "other", ["alice"], ["localhost", "127.0.0.1"], now=now)
    kit = ClientKit.load(scratch / "kits" / "clients" / "alice")
    other = ClientKit.load(scratch / "other" / "clients" / "alice")
    reasons: dict[str, int] = {}
    admitted = 0
    server = ServerKit.load(scratch / "kits" / "server")
    with NodesChannel("127.0.0.1:0", kit=server, limits=Limits(max_answer_bytes=1 << 20)).begin(
        Terms(7, {}, b"b" * 32), inbox=scratch / "inbox"
    ) as channel:
        bare = borrowed("server/conftest.py").BareNode
        with grpc.secure_channel(channel.address, channel_credentials(kit), options=list(CHANNEL_OPTIONS)) as line:
            for number in range(count):
                reason = _knock(bare, FederationStub(line), "alice" if number % 4 else f"bob{number}")
                admitted += reason == ""
                reasons[reason] = reasons.get(reason, 0) + 1
        stolen = grpc.ssl_channel_credentials(
            root_certificates=kit.tls.authority, private_key=other.tls.key, certificate_chain=other.tls.certificate
        )
        for number in range(strangers):
            credentials = stolen if number % 2 else grpc.ssl_channel_credentials(root_certificates=kit.tls.authority)
            with grpc.secure_channel(channel.address, credentials, options=list(CHANNEL_OPTIONS)) as line:
                reason = _knock(bare, FederationStub(line), "alice")
                admitted += reason == ""
                reasons[reason] = reasons.get(reason, 0) + 1
        admitted = max(admitted, len(channel.nodes(0)))
        # The one that may come in still can.
        alice = bare(channel.address, "alice", key=kit.node_key, credentials=channel_credentials(kit))
        assert alice.enrol().HasField("welcome")
        alice.leave()
    return count + strangers, admitted, reasons


class _Desk:
    """Takes whatever reaches it, and counts."""

    def __init__(self) -> None:
        self.asked = 0

    def _count(self, answer: object) -> object:
        self.asked += 1
        return answer

    submit = cancel = lambda self, *_, **__: self._count("run")
    runs_json = lambda self: self._count("{}")  # noqa: E731
    files = lambda self, _run: self._count([])  # noqa: E731


def _beyond_roles(scratch: Path, count: int) -> tuple[int, int]:
    """How many acts that their role does not allow members tried, and how many were accepted."""
    home, now = scratch / "roles", datetime.now(UTC)
    provision(home, ["ada"], ["localhost", "127.0.0.1"], operators=["olga", "otto"], now=now)
    revoke(home, "otto", now=now)
    operations = {
        "Submit": lambda line: OperationsStub(line).Submit(pb.SubmitRequest(config_json="{}"), timeout=180),
        "Cancel": lambda line: OperationsStub(line).Cancel(pb.CancelRequest(run="run"), timeout=180),
        "Runs": lambda line: OperationsStub(line).Runs(pb.RunsRequest(), timeout=180),
        "Fetch": lambda line: list(OperationsStub(line).Fetch(pb.FetchRequest(run="run"), timeout=180)),
    }
    taking_part = {
        "Attend": lambda line: _knock_as(line, "ada"),
        "Held": lambda line: FederationStub(line).Held(pb.HeldRequest(), timeout=180),
        "Download": lambda line: list(FederationStub(line).Download(pb.DownloadRequest(), timeout=180)),
        "Upload": lambda line: FederationStub(line).Upload(iter([pb.UploadPart()]), timeout=180),
    }
    beyond = [
        (ClientKit.load(home / "clients" / "ada"), operations),
        (StaffKit.load(home / "operators" / "olga"), taking_part),
        (StaffKit.load(home / "operators" / "otto"), {**taking_part, **operations}),
    ]
    desk, accepted = _Desk(), 0
    limits, more = Limits(max_answer_bytes=1 << 20), calls_of(desk)
    with NodesChannel(
        "127.0.0.1:0", kit=ServerKit.load(home / "server"), limits=limits, stays=True, more=more
    ) as channel:
        for number in range(count):
            kit, acts = beyond[number % len(beyond)]
            act = list(acts.values())[number // len(beyond) % len(acts)]
            with grpc.secure_channel(channel.address, channel_credentials(kit), options=list(CHANNEL_OPTIONS)) as line:
                try:
                    act(line)
                    accepted += 1
                except grpc.RpcError as error:
                    accepted += error.code() is not grpc.StatusCode.PERMISSION_DENIED
        with grpc.secure_channel(
            channel.address, channel_credentials(beyond[1][0]), options=list(CHANNEL_OPTIONS)
        ) as line:
            # Who may, still can.
            assert operations["Submit"](line).run == "run"
    return count, max(accepted, desk.asked - 1)


def _knock_as(line: grpc.Channel, name: str) -> None:
    """Fails, as other calls do, if the server refuses before it has read anything."""
    for event in FederationStub(line).Attend(iter([pb.FromNode(hello=pb.Hello(name=name))]), timeout=180):
        if event.refused.reason in (pb.REFUSED_REASON_ROLE, pb.REFUSED_REASON_REVOKED_KEY):
            raise _RefusedError
    raise AssertionError("the call ended without a word")


class _RefusedError(grpc.RpcError):
    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.PERMISSION_DENIED


def _knock(bare, stub: FederationStub, name: str) -> str:
    """Try to enrol with a new key; why it was refused, empty if it was not."""
    key = NodeKey.generate()
    node = bare.__new__(bare)
    node.name, node.key = name, key
    hello = node.hello()

    def said():
        yield pb.FromNode(hello=hello)
        challenge = answers.get(timeout=180)
        if challenge is not None:
            yield pb.FromNode(proof=node.proof(challenge, hello))

    answers: queue.SimpleQueue = queue.SimpleQueue()
    call = stub.Attend(said(), timeout=180)
    try:
        for event in call:
            if event.HasField("welcome"):
                call.cancel()
                return ""
            if event.HasField("refused"):
                return pb.RefusedReason.Name(event.refused.reason).removeprefix("REFUSED_REASON_")
            answers.put(event.challenge)
    except grpc.RpcError as error:
        return "no TLS" if error.code() is grpc.StatusCode.UNAVAILABLE else error.code().name
    finally:
        answers.put(None)
    return "hung up"


_PATHS = ("/", "/assets/page.js", "/api/runs", "/api/runs/first", "/none")
_OTHERS = ("127.0.0.2", "127.0.0.3", "127.0.0.4")


@contextmanager
def _page(home: Path, token: str) -> Generator[str]:
    """A page in this process, where a defence can be taken out; its address."""
    page = Page([home / "first"], token=token)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(page, listener), daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def strangers(home: Path, count: int) -> tuple[int, int]:
    """How many requests without the token, or from other sites' pages, were tried, and how many were answered."""
    token, answered = secrets.token_urlsafe(32), 0
    with _page(home, token) as place, httpx.Client(base_url=f"http://{place}", timeout=120) as visitor:
        port = place.rpartition(":")[2]

        def kept(said: str, at: str = port) -> dict[str, str]:
            return {"cookie": f"plait-{at}={said}"}

        guesses = ("", "x" * 43, token[:-1], f"{token}x", token.swapcase(), secrets.token_urlsafe(32))
        ways: list[tuple[str, dict[str, str], dict[str, str]]] = [("GET", {}, {})]
        ways += [("GET", {"token": guess}, {}) for guess in guesses]
        ways += [("GET", {}, kept(guess)) for guess in guesses]
        ways += [("GET", {}, kept(token, "1")), ("GET", {}, {"authorization": f"Bearer {token}"})]
        # With what a browser sends along by itself, but led there by somebody else's page or name.
        led: list[dict[str, str]] = [
            *({"host": each} for each in ("evil.example", f"evil.example:{port}", f"127.0.0.1.evil.example:{port}")),
            *({"origin": each} for each in ("http://evil.example", "null", "http://127.0.0.1:1")),
            {"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"},
            {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"},
        ]
        ways += [("GET", query, {**kept(token), **headers}) for headers in led for query in ({}, {"token": token})]
        ways += [(method, {}, kept(token)) for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS")]
        for number in range(count):
            method, query, headers = ways[number % len(ways)]
            path = _PATHS[number // len(ways) % len(_PATHS)]
            with visitor.stream(method, path, params=query, headers=headers) as answer:
                answered += answer.status_code not in (401, 403, 405)
            visitor.cookies.clear()
        # With the token it still can.
        assert visitor.get("/", params={"token": token}).status_code == httpx.codes.OK
        assert visitor.get("/api/runs").status_code == httpx.codes.OK
    return count, answered


def pressed(home: Path, connections: int) -> tuple[int, int]:
    """How often somebody looked while others opened so many connections, and how often in vain.

    Each has a request that does not end; those that the page ends are let go.
    """
    token = secrets.token_urlsafe(32)
    looks, vain, held = 0, 0, list[socket.socket]()
    with _page(home, token) as place:
        host, _, port = place.partition(":")
        head = f"POST /api/runs HTTP/1.1\r\nHost: {place}\r\n"
        unfinished = (b"", head.encode(), f"{head}Content-Length: 99\r\n\r\n{{".encode())
        for number in range(1, connections + 1):
            source = (_OTHERS[number % len(_OTHERS)], 0)
            held.append(socket.create_connection((host, int(port)), 180, source_address=source))
            with suppress(OSError):
                held[-1].sendall(unfinished[number // len(_OTHERS) % len(unfinished)])
            if number % 50:
                continue
            held = [one for one in held if not _is_ended(one)]
            looks += 1
            try:
                answer = httpx.get(f"http://{place}/api/runs", params={"token": token}, timeout=180)
                vain += answer.status_code != httpx.codes.OK
            except httpx.TransportError:
                vain += 1
        for one in held:
            one.close()
    return looks, vain


def _is_ended(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        while connection.recv(4096):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    connection.close()
    return True

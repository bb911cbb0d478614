"""Unauthenticated peers: the memory they can take, and whether any of ten thousand unknown keys gets in.

Memory is measured from outside, on a server in a separate process, with hand-written HTTP/2. Unknown keys come over TLS
with a certificate of the right authority (a stolen one, for example); others with certificates of another authority.
"""

from __future__ import annotations

import queue
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import grpc
from scoreboard.row import Row
from scoreboard.small_federation import TESTS, borrowed

from plait.transport import CHANNEL_OPTIONS, channel_credentials
from plait.trust import ClientKit, NodeKey, ServerKit, provision
from plait.v1 import federation_pb2 as pb
from plait.v1.federation_pb2_grpc import FederationStub
from server.grpc_grid import GrpcGrid
from server.limits import Limits

MOST_BYTES = 16 << 20
CONNECTIONS = 6
STRANGERS = 200


def run(*, full: bool, scratch: Path) -> Row:
    """Both halves."""
    seconds = 3.0 if full else 1.5
    most = {call: _bytes_a_connection(scratch / call, call, seconds) for call in ("Attend", "Upload", "Status")}
    unknown, admitted, reasons = _unknown_keys(scratch, 10_000 if full else 300, STRANGERS if full else 10)
    failures = [
        f"{call}: {held / 2**20:.1f} MiB a connection, expected at most 16"
        for call, held in most.items()
        if held > MOST_BYTES
    ]
    if admitted:
        failures.append(f"{admitted} of {unknown} unknown keys were admitted")
    if set(reasons) - {"UNKNOWN_KEY", "WRONG_NAME", "no TLS"}:
        failures.append(f"refused as {reasons}, expected an unknown key, another name than certified, or no TLS")
    return Row(
        "unauthenticated: memory, unknown keys",
        unknown + len(most),
        unknown - admitted + sum(held <= MOST_BYTES for held in most.values()),
        figures={
            "at most": f"{max(most.values()) / 2**20:.1f} MiB a connection",
            "unknown keys admitted": f"{admitted} of {unknown:,}",
        },
        failures=failures,
        least=10_000 if full else 300,
    )


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
        process.wait(timeout=30)


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
    with GrpcGrid(
        "127.0.0.1:0", inbox=scratch / "inbox", kit=ServerKit.load(scratch / "kits" / "server"), run_id=7,
        run_config={}, base_fingerprint=b"b" * 32, limits=Limits(max_answer_bytes=1 << 20),
    ) as grid:  # fmt: skip
        bare = borrowed("server/conftest.py").BareNode
        with grpc.secure_channel(grid.address, channel_credentials(kit), options=list(CHANNEL_OPTIONS)) as channel:
            for number in range(count):
                reason = _knock(bare, FederationStub(channel), "alice" if number % 4 else f"bob{number}")
                admitted += reason == ""
                reasons[reason] = reasons.get(reason, 0) + 1
        stolen = grpc.ssl_channel_credentials(
            root_certificates=kit.tls.authority, private_key=other.tls.key, certificate_chain=other.tls.certificate
        )
        for number in range(strangers):
            credentials = stolen if number % 2 else grpc.ssl_channel_credentials(root_certificates=kit.tls.authority)
            with grpc.secure_channel(grid.address, credentials, options=list(CHANNEL_OPTIONS)) as channel:
                reason = _knock(bare, FederationStub(channel), "alice")
                admitted += reason == ""
                reasons[reason] = reasons.get(reason, 0) + 1
        admitted = max(admitted, len(list(grid.get_node_ids())))
        # The one that may come in still can.
        alice = bare(grid.address, "alice", key=kit.node_key, credentials=channel_credentials(kit))
        assert alice.enrol().HasField("welcome")
        alice.leave()
    return count + strangers, admitted, reasons


def _knock(bare, stub: FederationStub, name: str) -> str:
    """Try to enrol with a new key; why it was refused, empty if it was not."""
    key = NodeKey.generate()
    node = bare.__new__(bare)
    node.name, node.key = name, key
    hello = node.hello()

    def said():
        yield pb.FromNode(hello=hello)
        challenge = answers.get(timeout=20)
        if challenge is not None:
            yield pb.FromNode(proof=node.proof(challenge, hello))

    answers: queue.SimpleQueue = queue.SimpleQueue()
    call = stub.Attend(said(), timeout=20)
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

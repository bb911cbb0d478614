"""What floods of one TLS hello, or of HTTP/2's pings, take from a live federation over TLS.

Two honest nodes run a federation during the attack, which begins before they connect. Their run must end within twice
its undisturbed time, measured shortly before, with an allowance for a loaded machine, and count all their updates.
"""

import socket
import ssl
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from scoreboard.processes import Job, attend, end, events, result, serve, start, until
from scoreboard.row import Row
from scoreboard.watched_client import memory_bytes

from plait.trust.provision import provision
from tests.waiting import unused_port

HONEST = ("alice", "bob")
NAMES = (*HONEST, "mallory")
ROUNDS = 2
WIDE = 300_000  # columns: a broadcast has 2.4 MB
ALLOWANCE_S = 10.0
MORE_MEMORY_BYTES = 128 << 20
Attack = Callable[[Job, int], None]
"""Goes on until its process is killed; told the job and the port, it makes the file `tried` once it has begun."""


def run(*, full: bool, scratch: Path) -> Row:
    del full
    kits = scratch / "kits"
    provision(kits, NAMES, ["localhost", "127.0.0.1"], now=datetime.now(UTC))
    alone = _federate(scratch / "alone", kits)
    attacked = {attack.__name__.strip("_"): _federate(scratch / attack.__name__, kits, attack) for attack in ATTACKS}
    worst = max(each.seconds for each in attacked.values()) / alone.seconds
    complaints = {name: _wrong(alone, outcome) for name, outcome in attacked.items()}
    return Row.of("floods", complaints, least=len(ATTACKS), slowest=f"{worst:.1f} times as long as undisturbed")


@dataclass(frozen=True)
class _Outcome:
    seconds: float
    updates: list[tuple[int, str]]
    peak_bytes: int


def _wrong(alone: _Outcome, attacked: _Outcome) -> str:
    """What the attack achieved; empty for nothing."""
    expected = [(number, name) for number in range(1, ROUNDS + 1) for name in HONEST]
    for what, outcome in (("undisturbed", alone), ("attacked", attacked)):
        if outcome.updates != expected:
            return f"{what}, the updates {outcome.updates} were counted, expected {expected}"
    if attacked.seconds > 2 * alone.seconds + ALLOWANCE_S:
        return f"the run took {attacked.seconds:.1f} s, undisturbed {alone.seconds:.1f} s"
    if attacked.peak_bytes > alone.peak_bytes + MORE_MEMORY_BYTES:
        return f"the server took {attacked.peak_bytes >> 20} MiB, undisturbed {alone.peak_bytes >> 20} MiB"
    return ""


def _federate(folder: Path, kits: Path, attack: Attack | None = None) -> _Outcome:
    plan = {"bits": "fp32", "rounds": ROUNDS, "clients": 2, "cohort_size": 2, "quorum": 2}
    job = Job(folder, plan, HONEST, kits, train_s=0.2, wide=WIDE)
    job.folder.mkdir()
    port = unused_port()
    processes = [server := start(serve, job, port)]
    try:
        until(lambda: _listens(port), "the server to listen")
        if attack:
            processes.append(start(attack, job, port))
            until((folder / "tried").exists, "the attack to begin")
        began = time.monotonic()
        processes += [start(attend, job, number, port) for number in range(len(HONEST))]
        peaks_bytes = [0]

        def is_over() -> bool:
            with suppress(OSError, StopIteration):  # it ends by itself
                peaks_bytes.append(memory_bytes("VmHWM", server.pid))
            return result(job) is not None or not server.is_alive()

        with suppress(TimeoutError):
            until(is_over, "the end of the run")
        seconds = time.monotonic() - began
    finally:
        end(processes)
    counted = sorted((event["round"], event["client"]) for event in events(job, "update_received"))
    return _Outcome(seconds, counted, max(peaks_bytes))


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
        return True
    return False


def _replayed_hellos(job: Job, port: int) -> None:
    """Without any certificate: one recorded ClientHello, sent again as fast as the server answers it."""
    outgoing = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    hello = outgoing.read()

    def replay() -> None:
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(hello)
                if connection.recv(1):
                    (job.folder / "tried").touch()
                # Not left to the kernel's minute of waiting, which would use up this machine's ports.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with ThreadPoolExecutor(2) as pool:
        pool.map(lambda work: work(), [replay] * 2)


def _pings(job: Job, port: int) -> None:
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
                    (job.folder / "tried").touch()
                    with suppress(TimeoutError):
                        if not connection.recv(1 << 16):
                            break

    with ThreadPoolExecutor(2) as pool:
        pool.map(lambda work: work(), [flood] * 2)


ATTACKS: tuple[Attack, ...] = (_replayed_hellos, _pings)

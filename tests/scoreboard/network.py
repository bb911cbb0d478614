"""Eight network faults, each during enrolment, on the idle task stream, in a download and in an upload.

A server and two nodes in separate processes, with plait's own connection, downloads and uploads; one of them connects
through a `Proxy`, which knows nothing of the traffic. Nothing is lost, nothing is counted twice, and the adapter has
the bits of the undisturbed run. A duplicated connection is tested in two ways at once: its bytes are replayed to the
server, which TLS refuses, and a second node with the same kit connects, which replaces the first.
"""

from __future__ import annotations

import itertools
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from multiprocessing.process import BaseProcess
from pathlib import Path

from scoreboard.processes import Job, attend, end, events, result, serve, start, until
from scoreboard.row import Row

from plait.trust.provision import provision
from tests.waiting import unused_port

_PIECE = 1 << 14


class Fault(StrEnum):
    """What happens to a connection."""

    DROP = "drop"
    """Its bytes vanish, both ways, for three seconds; then it is closed."""
    DELAY = "delay"
    """Every piece is held back for 0.15 s, both ways, from then on."""
    DUPLICATE = "duplicate connection"
    """All that the client says is said to the server a second time over a connection of its own; besides, the one
    that told the proxy what to do may then connect a second time in earnest."""
    RESET = "reset"
    """Both ends get a TCP reset."""
    TRUNCATE = "truncate"
    """Half of a piece arrives, then the end."""
    HALF_OPEN = "half-open"
    """Nothing arrives any more, and neither end is told; new connections are carried."""
    SLOW_LORIS = "slow-loris"
    """A byte at a time for five seconds, then it is reset."""
    BANDWIDTH = "bandwidth 64 kB/s"
    """64 kB a second, both ways together."""


LASTING = frozenset({Fault.DELAY, Fault.BANDWIDTH})
"""These stay for every connection from then on; of the others one connection is enough."""


@dataclass
class Proxy:
    """Carries every connection to one port."""

    target: int
    fault: Fault | None = None
    due: Callable[[int, int], bool] = lambda up, down: False  # whether the moment has come, by the bytes carried
    at_once: Callable[[], None] = lambda: None
    hears: Callable[[bytes], object] = lambda _: None  # all that is carried
    fired: int = 0
    up_bytes: int = 0  # carried over all connections
    down_bytes: int = 0
    port: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = [self._listener]
        self._free_at = 0.0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for each in self._open:
            with suppress(OSError):
                each.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
            except ConnectionRefusedError:
                near.close()
                continue
            except OSError:
                return
            self._open += [near, far]
            connection = _Connection(self, near, far)
            threading.Thread(target=connection.carry, args=(near, far, True), daemon=True).start()
            threading.Thread(target=connection.carry, args=(far, near, False), daemon=True).start()

    def count(self, up: int, down: int) -> None:
        with self._lock:
            self.up_bytes += up
            self.down_bytes += down

    def claim(self, up: int, down: int) -> bool:
        """Whether this connection is the one to spoil, from now on."""
        with self._lock:
            if (self.fired and self.fault not in LASTING) or not self.due(up, down):
                return False
            self.fired += 1
        self.at_once()
        return True

    def wait_for(self, count: int) -> None:
        """Wait until so many bytes may pass at 64 kB/s."""
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + count / 64_000.0
            wait_s = self._free_at - time.monotonic()
        time.sleep(max(0.0, wait_s))


class _Connection:
    """Two ends, and what has passed between them."""

    def __init__(self, proxy: Proxy, near: socket.socket, far: socket.socket) -> None:
        self._proxy = proxy
        self._ends = (near, far)
        self._far = far
        self._up = self._down = 0
        self._spoilt_at: float | None = None
        self._lock = threading.Lock()
        self._said = bytearray()
        self._second: socket.socket | None = None

    def carry(self, source: socket.socket, sink: socket.socket, up: bool) -> None:
        with suppress(OSError):
            while data := source.recv(_PIECE):
                if not self._pass(data, sink, up):
                    return
        self._hang_up()

    def _pass(self, data: bytes, sink: socket.socket, up: bool) -> bool:
        """Hand a piece on, as the fault has it; False where nothing follows."""
        self._proxy.hears(data)
        self._proxy.count(len(data) * up, len(data) * (not up))
        with self._lock:
            self._up += len(data) * up
            self._down += len(data) * (not up)
            if self._proxy.fault is Fault.DUPLICATE and up:
                self._said += data
            if self._spoilt_at is None and self._proxy.claim(self._up, self._down):
                self._spoilt_at = time.monotonic()
            spoilt_at = self._spoilt_at
        if spoilt_at is None:
            sink.sendall(data)
            return True
        spoilt_s = time.monotonic() - spoilt_at
        match self._proxy.fault:
            case Fault.DROP:
                if spoilt_s > 3.0:
                    self._hang_up()
                    return False
                threading.Timer(3.0 - spoilt_s, self._hang_up).start()
            case Fault.HALF_OPEN:
                pass
            case Fault.DELAY:
                time.sleep(0.15)
                sink.sendall(data)
            case Fault.BANDWIDTH:
                self._proxy.wait_for(len(data))
                sink.sendall(data)
            case Fault.RESET:
                self._reset()
                return False
            case Fault.TRUNCATE:
                sink.sendall(data[: len(data) // 2])
                self._hang_up()
                return False
            case Fault.SLOW_LORIS:
                for byte in data:
                    sink.sendall(bytes([byte]))
                    time.sleep(0.05)
                    if time.monotonic() - spoilt_at > 5.0:
                        self._reset()
                        return False
            case Fault.DUPLICATE:
                sink.sendall(data)
                if up:
                    self._say_again(data)
        return True

    def _say_again(self, data: bytes) -> None:
        if self._second is None:
            self._second = socket.create_connection(self._far.getpeername())
            threading.Thread(target=_swallow, args=(self._second,), daemon=True).start()
            data = bytes(self._said)
        with suppress(OSError):
            self._second.sendall(data)

    def _hang_up(self) -> None:
        for one in self._ends:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _reset(self) -> None:
        for one in self._ends:
            with suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.shutdown(socket.SHUT_RD)
            with suppress(OSError):
                one.close()


def _swallow(end: socket.socket) -> None:
    with suppress(OSError):
        while end.recv(1 << 16):
            pass


NAMES = ("alice", "bob")
WIDE = 40_000  # float32 columns of A: 320 kB a message
MESSAGE_BYTES = 8 * WIDE
MOMENTS = ("enrolment", "task stream", "download", "upload")
TOGETHER = 4
PATIENCE_S = 40 if os.environ.get("PLAIT_SCOREBOARD_WITHOUT") else 180
QUICK = {
    (Fault.RESET, "upload"),
    (Fault.TRUNCATE, "download"),
    (Fault.DUPLICATE, "upload"),
    (Fault.DROP, "task stream"),
    (Fault.RESET, "enrolment"),
}
"""The cells of a short run."""


@dataclass
class Cell:
    """One fault at one moment."""

    fault: Fault
    moment: str
    complaint: str = ""
    seconds: float = 0.0


def run(*, full: bool, scratch: Path) -> Row:
    """Every fault at every moment; several runs side by side, for they mostly wait."""
    cells = [Cell(fault, moment) for fault, moment in itertools.product(Fault, MOMENTS)]
    if not full:
        cells = [cell for cell in cells if (cell.fault, cell.moment) in QUICK]
    provision(scratch / "kits", NAMES, ["localhost", "127.0.0.1"], now=datetime.now(UTC))
    wanted, complaint, _ = _federate(scratch / "undisturbed", scratch / "kits", None, "")
    assert not complaint, complaint

    def try_out(numbered: tuple[int, Cell]) -> None:
        number, cell = numbered
        started = time.monotonic()
        folder = scratch / f"{number}"
        said, cell.complaint, fired = _federate(folder, scratch / "kits", cell.fault, cell.moment)
        cell.seconds = time.monotonic() - started
        if not cell.complaint and not fired:
            cell.complaint = "the fault did not happen"
        if not cell.complaint and said != wanted:
            cell.complaint = "the adapter is another than undisturbed"

    with ThreadPoolExecutor(TOGETHER) as pool:
        list(pool.map(try_out, enumerate(cells)))
    found = {f"{cell.fault}, {cell.moment}": cell.complaint for cell in cells}
    slowest = max(cells, key=lambda cell: cell.seconds)
    told = f"{slowest.seconds:.0f} s ({slowest.fault}, {slowest.moment})"
    return Row.of("network faults, each at each moment", found, least=30 if full else 1, slowest=told)


def _federate(folder: Path, kits: Path | None, fault: Fault | None, moment: str) -> tuple[object, str, int]:
    """Three rounds; what they came to, what is wrong with their story, how often the fault happened."""
    job = Job(folder, {"bits": "fp32", "rounds": 3}, NAMES, kits, train_s=1.0, wide=WIDE)
    job.folder.mkdir()
    port = unused_port()
    server = start(serve, job, port)
    nodes: list[BaseProcess] = []

    def join(number: int, through: int) -> None:
        nodes.append(start(attend, job, number, through))

    proxy = Proxy(port, fault, _moment(job, moment)) if fault else None
    if proxy and fault is Fault.DUPLICATE:
        proxy.at_once = lambda: join(1, port)
    join(0, port)
    join(1, proxy.port if proxy else port)
    try:
        until(lambda: result(job) or not server.is_alive(), "the end of the run", patience_s=PATIENCE_S)
    except TimeoutError as error:
        return None, str(error), proxy.fired if proxy else 0
    finally:
        end([*nodes, server])
        if proxy:
            proxy.close()
    found = result(job)
    return found and found["said"], _story(job) if found else "the server ended", proxy.fired if proxy else 0


def _moment(job: Job, moment: str) -> Callable[[int, int], bool]:
    """Whether it has come, by what the connection has carried; `task stream` is when a round is under way."""

    def in_round(number: int) -> bool:
        return any(event["round"] == number for event in events(job, "round_started"))

    match moment:
        case "enrolment":
            return lambda up, down: True
        case "task stream":
            return lambda up, down: in_round(2) and down < 3 * MESSAGE_BYTES and up < 1.5 * MESSAGE_BYTES
        case "download":
            # The first round's adapter comes from its seed; round 2 begins with a download of what it became.
            return lambda up, down: down > MESSAGE_BYTES // 3
        case _:
            return lambda up, down: up > MESSAGE_BYTES // 3


def _story(job: Job) -> str:
    """What is wrong with the ledger; empty where every update and every loss is there once."""
    received = sorted((event["round"], event["client"]) for event in events(job, "update_received"))
    if received != [(number, name) for number in (1, 2, 3) for name in NAMES]:
        refused = [(event["round"], event["client"], event["reason"]) for event in events(job, "update_refused")]
        return f"the updates {received} were counted, {refused} refused"
    losses = [(event["round"], sorted(event["by_client"])) for event in events(job, "evaluated")]
    if losses != [(number, sorted(NAMES)) for number in range(4)]:
        return f"the losses {losses} were counted"
    return ""

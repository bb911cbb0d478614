"""Eight network faults, each during enrolment, on the idle task stream, in a download and in an upload.

A server and two nodes in separate processes, with plait's own connection, downloads and uploads; one of them connects
through `bad_network.Proxy`. Nothing is lost, nothing is counted twice, and the adapter has the bits of the undisturbed
run. A duplicated connection is tested in two ways at once: its bytes are replayed to the server, which TLS refuses, and
a second node with the same kit connects, which replaces the first.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.process import BaseProcess
from pathlib import Path

from scoreboard.bad_network import Fault, Proxy
from scoreboard.processes import Job, attend, end, events, result, serve, start, until
from scoreboard.row import Row

from plait.trust.provision import provision
from tests.waiting import unused_port

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
    found = [f"{cell.fault}, {cell.moment}: {cell.complaint}" if cell.complaint else "" for cell in cells]
    slowest = max(cells, key=lambda cell: cell.seconds)
    told = f"{slowest.seconds:.0f} s ({slowest.fault}, {slowest.moment})"
    return Row.of("network faults, each at each moment", found, least=30 if full else 1, slowest=told)


def _federate(folder: Path, kits: Path | None, fault: Fault | None, moment: str) -> tuple[object, str, int]:
    """Three rounds; what they came to, what is wrong with their story, how often the fault happened."""
    job = Job(folder, {"wire": "fp32", "rounds": 3}, NAMES, kits, train_s=1.0, wide=WIDE)
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

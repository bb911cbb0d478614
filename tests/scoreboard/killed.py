"""A server that is killed (SIGKILL, a real process) at twenty points of a round continues to the same bits.

The points are spread over everything durable in round 2: before and after every fsync, rename and line of the ledger.
Then the same command continues from the files on disk.
"""

from __future__ import annotations

import socket
import time
from dataclasses import replace
from pathlib import Path

from scoreboard.processes import Job, attend, end, events, result, serve, simulate, start
from scoreboard.row import Row

POINTS = 20
WIDE = 150
TWO = ("alice", "bob")

WAYS: dict[str, dict[str, object]] = {
    "one bit, error feedback both ways": {"wire": "1"},
    "FLoRA, a base that moves": {"wire": "fp32", "rule": "flora"},
    "FedAdam at the server, moments at the clients": {
        "wire": "bf16", "optimizer": "fedadam", "settings": {"carry_moments": True},
    },
    "SCAFFOLD": {"wire": "bf16", "settings": {"scaffold": True}},
    "over gRPC, one bit, clients that stay": {"wire": "1", "rule": "median"},
}  # fmt: skip


def run(*, full: bool, scratch: Path) -> Row:
    """Every way: once undisturbed, then killed at each point."""
    tried = passed = 0
    failures: list[str] = []
    seconds: list[float] = []
    for way, arguments in WAYS.items():
        over_grpc = way.startswith("over gRPC")
        arguments = {"rounds": 3, **arguments}
        folder = scratch / f"{len(list(scratch.iterdir()))}"
        # Of a few numbers a rate of a bit leaves nothing; of many it leaves much that is owed.
        undisturbed_job = Job(folder, arguments, TWO, wide=WIDE if "bit" in way else 0)
        undisturbed = _once(undisturbed_job, over_grpc, 0, [])
        marks = undisturbed["marks"]
        points = POINTS if full else 2 if over_grpc else 4
        steps = [marks["begin"] + (marks["end"] - marks["begin"]) * point // points for point in range(points)]
        for point, step in enumerate(steps):
            tried += 1
            job = replace(undisturbed_job, folder=folder / f"killed-{point}")
            killed = _once(job, over_grpc, step, seconds)
            if killed["killed"] != 1:
                failures.append(f"{way}, point {point}: killed {killed['killed']} times, expected once")
            elif killed["said"] != undisturbed["said"]:
                failures.append(f"{way}, point {point} (step {step}): another result than undisturbed")
            elif complaint := _story(job):
                failures.append(f"{way}, point {point} (step {step}): {complaint}")
            else:
                passed += 1
    return Row(
        "server SIGKILL, bit-identical",
        tried,
        passed,
        figures={"ways": len(WAYS), "slowest to go on": f"{max(seconds, default=0):.2f} s"},
        failures=failures,
        least=5 * POINTS if full else 10,
    )


def _once(job: Job, over_grpc: bool, fuse_at: int, seconds: list[float]) -> dict[str, object]:
    """A run whose server is killed at a step and started again, to its end."""
    job.folder.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    nodes = [start(attend, job, number, port) for number in range(len(TWO))] if over_grpc else []
    kills = 0
    while (found := result(job)) is None:
        started = time.time()
        if kills > 1 or (kills and not fuse_at):
            raise RuntimeError("the server ended without a result")
        process = start(serve, job, port, fuse_at if not kills else 0) if over_grpc else start(
            simulate, job, fuse_at if not kills else 0
        )  # fmt: skip
        process.join(60)
        end([process])
        if process.exitcode == -9:
            kills += 1
        elif process.exitcode:
            raise RuntimeError(f"the server ended with {process.exitcode}")
    for node in nodes:
        node.join(20)
    if any(node.exitcode for node in nodes):
        raise RuntimeError("a node did not end in good order")
    if kills:
        seconds.append(next(event["time"] for event in events(job, "resumed")) - started)
    return {**found, "killed": kills}


def _story(job: Job) -> str:
    """What is wrong with the ledger of a run that was killed; empty where it tells all, once."""
    finished = [event["round"] for event in events(job, "round_finished")]
    received = [(event["round"], event["client"]) for event in events(job, "update_received")]
    if finished != [1, 2, 3]:
        return f"rounds {finished} were finished"
    if sorted(received) != [(number, name) for number in (1, 2, 3) for name in TWO]:
        return f"updates {received} were counted"
    return ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

"""A server, or a client, that is killed (SIGKILL, a real process) at twenty points continues to the same bits.

The server's points are spread over everything durable in round 2, a client's over everything durable in its run:
before and after every fsync and rename, and at every line of the ledger. Then the same command goes on from the disk.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path

from scoreboard.processes import Job, attend, end, events, result, serve, simulate, start
from scoreboard.row import Row

from plait.rounds.ledger import read_lines
from tests.killing import different_stories
from tests.waiting import unused_port

POINTS = 20
WIDE = 150
TWO = ("alice", "bob")

SIX = tuple("abcdef")


@dataclass(frozen=True)
class Way:
    """A federation whose server, or first client, is killed.

    Attributes:
        arguments: of the `Federation`.
        names: of its clients.
        rounds: of its run.
        wide: columns of a larger adapter; of a few numbers a rate of a bit leaves nothing, of many it leaves much.
        over_grpc: whether each client is a process of its own.
        kills_client: whether the first client is killed, and not the server.
    """

    arguments: Mapping[str, object]
    names: Sequence[str] = TWO
    rounds: int = 3
    wide: int = 0
    over_grpc: bool = False
    kills_client: bool = False

    @property
    def points(self) -> int:
        """Where the quick form of the row kills."""
        return 2 if self.over_grpc else 4


TWO_OF_SIX = {"wire": "1", "cohort_size": 2}
WAYS: dict[str, Way] = {
    "one bit, error feedback both ways": Way({"wire": "1"}, wide=WIDE),
    "one bit, two of six clients a round": Way(TWO_OF_SIX, SIX, rounds=6, wide=WIDE),
    "FedSVD, factors that turn": Way({"wire": "fp32", "rule": "fedsvd"}),
    "FedAdam at the server, moments at the clients": Way(
        {"wire": "bf16", "optimizer": "fedadam", "settings": {"carry_moments": True}}
    ),
    "over gRPC, one bit, clients that stay": Way({"wire": "1", "rule": "median"}, wide=WIDE, over_grpc=True),
    "over gRPC, one bit, two of six clients a round": Way(TWO_OF_SIX, SIX, rounds=6, wide=WIDE, over_grpc=True),
    "over gRPC, one bit, two of six, a client": Way(
        TWO_OF_SIX, SIX, rounds=6, wide=WIDE, over_grpc=True, kills_client=True
    ),
}


def run(*, full: bool, scratch: Path) -> Row:
    """Every way: once undisturbed, then killed at each point."""
    tried = passed = 0
    failures: list[str] = []
    seconds: list[float] = []
    for name, way in WAYS.items():
        folder = scratch / f"{len(list(scratch.iterdir()))}"
        whole = Job(folder, {"rounds": way.rounds, **way.arguments}, way.names, wide=way.wide)
        undisturbed = _once(whole, way, 0, [])
        marks = undisturbed["marks"]
        points = POINTS if full else way.points
        steps = [marks["begin"] + (marks["end"] - marks["begin"]) * point // points for point in range(points)]
        for point, step in enumerate(steps):
            tried += 1
            job = replace(whole, folder=folder / f"killed-{point}")
            killed = _once(job, way, step, seconds)
            if killed["killed"] != 1:
                failures.append(f"{name}, point {point}: killed {killed['killed']} times, expected once")
            elif killed["said"] != undisturbed["said"]:
                failures.append(f"{name}, point {point} (step {step}): another result than undisturbed")
            elif told := different_stories(*(read_lines(each.run / "ledger.jsonl") for each in (job, whole))):
                failures.append(f"{name}, point {point} (step {step}): {told}")
            else:
                passed += 1
    return Row(
        "SIGKILL of server or client, bit-identical",
        tried,
        passed,
        figures={"ways": len(WAYS), "slowest to go on": f"{max(seconds, default=0):.2f} s"},
        failures=failures,
        least=len(WAYS) * POINTS if full else sum(way.points for way in WAYS.values()),
    )


def _once(job: Job, way: Way, fuse_at: int, seconds: list[float]) -> dict[str, object]:
    """A run whose server or client is killed at a step and started again, to its end."""
    job.folder.mkdir(parents=True, exist_ok=True)
    port = unused_port()
    at_client = fuse_at if way.kills_client else 0
    nodes = [
        start(attend, job, number, port, 0 if number else at_client, way.kills_client and not number)
        for number in range(len(way.names) if way.over_grpc else 0)
    ]
    server, kills = _serving(job, way, port, 0 if way.kills_client else fuse_at), 0
    victim = nodes[0] if at_client else server
    started = time.time()
    if fuse_at:
        victim.join(180)
        kills += victim.exitcode == -9
        started = time.time()
        if at_client:
            nodes[0] = start(attend, job, 0, port)
        else:
            server = _serving(job, way, port, 0)
    server.join(180)
    found = result(job)
    for node in nodes:
        node.join(180)
    ended = [process.exitcode for process in (server, *nodes)]
    end([server, *nodes])
    if found is None or any(ended):
        raise RuntimeError(f"server and nodes ended with {ended}")
    if kills and not at_client:
        seconds.append(next(event["time"] for event in events(job, "resumed")) - started)
    if way.kills_client and not at_client:
        found["marks"] = {"begin": 1, "end": json.loads((job.folder / "steps-0").read_text())}
    return {**found, "killed": kills}


def _serving(job: Job, way: Way, port: int, fuse_at: int) -> BaseProcess:
    return start(serve, job, port, fuse_at) if way.over_grpc else start(simulate, job, fuse_at)

"""A server, or a client, that is killed (SIGKILL, a real process) at twenty points continues to the same bits.

The server's points are spread over everything durable in round 2, a client's over everything durable in its run:
before and after every fsync and rename, and at every line of the ledger. Then the same command goes on from the disk.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path

from scoreboard.processes import Job, attend, end, events, result, serve, simulate, start
from scoreboard.row import Row

from plait.ledger.ledger import read_lines
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
    complaints: list[str] = []
    seconds: list[float] = []
    for number, (name, way) in enumerate(WAYS.items()):
        whole = Job(scratch / f"{number}", {"rounds": way.rounds, **way.arguments}, way.names, wide=way.wide)
        killed = kills(whole, way, POINTS if full else way.points, seconds)
        complaints += [f"{name}, {complaint}" if complaint else "" for _, complaint in killed]
    least = len(WAYS) * POINTS if full else sum(way.points for way in WAYS.values())
    slowest = f"{max(seconds, default=0):.2f} s"
    return Row.of(
        "SIGKILL of server or client, bit-identical", complaints, least=least, ways=len(WAYS),
        **{"slowest to go on": slowest},
    )  # fmt: skip


def kills(
    whole: Job, way: Way, points: int, seconds: list[float], *, prepare: Callable[[Job], None] = lambda _: None
) -> Iterator[tuple[Job, str]]:
    """A run once undisturbed, then killed at each point: what became of it, and what is wrong with it.

    Args:
        prepare: what is done before each.
        seconds: takes how long each server needed to go on.
    """
    prepare(whole)
    undisturbed = _once(whole, way, 0, [])
    first, last = undisturbed["marks"]["begin"], undisturbed["marks"]["end"]
    for point in range(points):
        job = replace(whole, folder=whole.folder / f"killed-{point}")
        prepare(job)
        killed = _once(job, way, first + (last - first) * point // points, seconds)
        if killed["killed"] != 1:
            wrong = f"killed {killed['killed']} times, expected once"
        elif killed["said"] != undisturbed["said"]:
            wrong = "another result than undisturbed"
        else:
            told = different_stories(*(read_lines(each.run / "ledger.jsonl") for each in (job, whole)))
            wrong = str(told) if told else ""
        yield job, f"point {point}: {wrong}" if wrong else ""


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

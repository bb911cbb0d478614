"""A server, or a client, that is killed (SIGKILL, a real process) at twenty points continues to the same bits.

The server's points are spread over everything durable in round 2, a client's over everything durable in its run:
before and after every fsync and rename, and at every line of the ledger. Then the same command goes on from the disk.
Two more rows: rounds go on without clients that are killed while they train, and without one that does not answer.
"""

import json
import os
import signal
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from multiprocessing.process import BaseProcess
from pathlib import Path

from scoreboard.processes import Job, attend, end, events, result, serve, simulate, start, until
from scoreboard.row import Row

from plait.ledger.ledger import read_lines
from plait.trust.provision import provision
from tests.killing import different_stories
from tests.waiting import unused_port

POINTS = 20
WIDE = 150
TWO = ("alice", "bob")
SIX = tuple("abcdef")


@dataclass(frozen=True)
class Way:
    """A federation whose server, or first client, is killed."""

    arguments: Mapping[str, object]
    names: Sequence[str] = TWO
    rounds: int = 3
    wide: int = 0  # columns; of a few numbers a rate of a bit leaves nothing, of many it leaves much
    over_grpc: bool = False  # each client is a process of its own
    kills_client: bool = False  # the first client is killed, and not the server

    @property
    def points(self) -> int:
        """Where the quick form of the row kills."""
        return 2 if self.over_grpc else 4


TWO_OF_SIX = {"bits": "1", "cohort_size": 2}
WAYS: dict[str, Way] = {
    "one bit, error feedback both ways": Way({"bits": "1"}, wide=WIDE),
    "one bit, two of six clients a round": Way(TWO_OF_SIX, SIX, rounds=6, wide=WIDE),
    "FedSVD, factors that turn": Way({"bits": "fp32", "rule": "fedsvd"}),
    "FedAdam at the server, moments at the clients": Way(
        {"bits": "bf16", "optimizer": "fedadam", "settings": {"carry_moments": True}}
    ),
    "over gRPC, one bit, clients that stay": Way({"bits": "1", "rule": "median"}, wide=WIDE, over_grpc=True),
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
        complaints += [f"{name}, {complaint}" if complaint else "" for complaint in killed]
    least = len(WAYS) * POINTS if full else sum(way.points for way in WAYS.values())
    slowest = f"{max(seconds, default=0):.2f} s"
    return Row.of(
        "SIGKILL of server or client, bit-identical", complaints, least=least, ways=len(WAYS),
        **{"slowest to go on": slowest},
    )  # fmt: skip


def kills(whole: Job, way: Way, points: int, seconds: list[float]) -> Iterator[str]:
    """A run once undisturbed, then killed at each point: what is wrong; `seconds` to go on."""
    undisturbed = _once(whole, way, 0, [])
    first, last = undisturbed["marks"]["begin"], undisturbed["marks"]["end"]
    for point in range(points):
        job = replace(whole, folder=whole.folder / f"killed-{point}")
        killed = _once(job, way, first + (last - first) * point // points, seconds)
        if killed["killed"] != 1:
            wrong = f"killed {killed['killed']} times, expected once"
        elif killed["said"] != undisturbed["said"]:
            wrong = "another result than undisturbed"
        else:
            told = different_stories(*(read_lines(each.run / "ledger.jsonl") for each in (job, whole)))
            wrong = str(told) if told else ""
        yield f"point {point}: {wrong}" if wrong else ""


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


@contextmanager
def _running(job: Job, *, last: Job | None = None) -> Generator[tuple[list[BaseProcess], int]]:
    """The nodes of a federation over gRPC, the last of which may have another job, and the server's port."""
    job.folder.mkdir()
    port = unused_port()
    jobs = [job] * (len(job.names) - 1) + [last or job]
    server, nodes = start(serve, job, port), [start(attend, each, number, port) for number, each in enumerate(jobs)]
    try:
        yield nodes, port
        until(lambda: result(job), "the end of the run")
    finally:
        end([*nodes, server])


def _at_round_2(job: Job, what: str) -> None:
    until(lambda: [event for event in events(job, what) if event["round"] == 2], f"{what} of round 2")


def clients_killed(*, full: bool, scratch: Path) -> Row:
    """Of 32 clients 15 are killed as they train, over TLS: no round is missed, and those started again take part."""
    count = 32 if full else 6
    killed = range(0, count - 2, 2)
    names = tuple(f"c{number:02}" for number in range(count))
    provision(scratch / "kits", names, ["localhost", "127.0.0.1"], now=datetime.now(UTC))
    plan = {"bits": "1", "rounds": 4, "quorum": count // 2}
    job = Job(scratch / "fed", plan, names, scratch / "kits", train_s=1.0, grace_s=1.0)
    with _running(job) as (nodes, port):
        _at_round_2(job, "round_started")
        time.sleep(0.5)
        for number in killed:
            nodes[number].kill()
        killed_at = time.time()
        _at_round_2(job, "round_finished")
        nodes += [start(attend, job, number, port) for number in killed]
    finished, missed = events(job, "round_finished"), events(job, "round_missed")
    round_2 = next(event for event in finished if event["round"] == 2)
    received = [(event["round"], event["client"]) for event in events(job, "update_received")]
    survivors = {name for number, name in enumerate(names) if number not in killed}
    last = [name for number, name in received if number == 4]
    rounds = [event["round"] for event in finished]
    wrong = {
        f"{len(missed)} rounds were missed, {rounds} finished": missed or rounds != [1, 2, 3, 4],
        "an update was counted twice": len(received) != len(set(received)),
        "a survivor's update of round 2 is missing": survivors - {name for number, name in received if number == 2},
        f"round 2 counted {round_2['received']} updates, expected {len(survivors)}":
            round_2["received"] != len(survivors),
        "no killed client took part again": not set(last) - survivors,
    }  # fmt: skip
    figures = {"round over after": f"{round_2['time'] - killed_at:.1f} s", "updates of the last round": len(last)}
    return Row.of(
        f"{len(killed)} of {count} clients SIGKILLed mid-round", (what if so else "" for what, so in wrong.items()),
        least=len(wrong), killed=len(killed), **figures,
    )  # fmt: skip


DEADLINE_S = 2.0


def straggler(*, full: bool, scratch: Path) -> Row:
    """A client that is stopped by a signal, or trains for an hour, delays a round by its deadline alone."""
    over: list[float] = []
    complaints: list[str] = []
    for number, kind in enumerate(["stopped", "endless"] * (5 if full else 1)):
        plan = {"bits": "1", "rounds": 3, "quorum": 1, "deadline_s": DEADLINE_S}
        job = Job(scratch / f"{number}", plan, (*TWO, "slow"), train_s=0.2)
        with _running(job, last=replace(job, train_s=3600.0) if kind == "endless" else job) as (nodes, _):
            if kind == "stopped":
                _at_round_2(job, "round_started")
                os.kill(nodes[2].pid, signal.SIGSTOP)
        late = [event["round"] for event in events(job, "update_refused") if event["reason"] == "late"]
        if not late:
            complaints.append(f"{kind}: no client was late")
        for when in late:
            started, finished = (
                next(event["time"] for event in events(job, what) if event["round"] == when)
                for what in ("round_started", "round_finished")
            )
            over.append(finished - started - DEADLINE_S)
            # A round that waited for the straggler would not end at all; how late tells how busy the machine is.
            complaints.append("" if over[-1] >= 0.0 else f"{kind}: round {when} ended before its deadline")
    return Row.of(
        "straggler: round ends without it once its deadline is over", complaints, least=10 if full else 2,
        latest=f"deadline + {max(over, default=99):.2f} s",
    )  # fmt: skip

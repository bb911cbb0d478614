"""Of 32 clients 15 are killed (SIGKILL, real processes) while they train: the round continues with the others.

Real gRPC over TLS on loopback. More than half remain; no round may be missed, and restarted clients take part again.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

from scoreboard.processes import Job, attend, end, events, result, serve, start, until
from scoreboard.row import Row

from plait.trust.provision import provision
from tests.waiting import unused_port


def run(*, full: bool, scratch: Path) -> Row:
    count = 32 if full else 6
    killed = range(0, count - 2, 2)
    names = tuple(f"c{number:02}" for number in range(count))
    provision(scratch / "kits", names, ["localhost", "127.0.0.1"], now=datetime.now(UTC))
    job = Job(
        scratch / "fed", {"wire": "1", "rounds": 4, "quorum": count // 2}, names, scratch / "kits", train_s=1.0,
        grace_s=1.0,
    )  # fmt: skip
    job.folder.mkdir()
    port = unused_port()
    server = start(serve, job, port)
    nodes = [start(attend, job, number, port) for number in range(count)]
    try:
        until(lambda: [e for e in events(job, "round_started") if e["round"] == 2], "round 2")
        time.sleep(0.5)
        for number in killed:
            nodes[number].kill()
        killed_at = time.time()
        until(lambda: [e for e in events(job, "round_finished") if e["round"] == 2], "the end of round 2")
        back = [start(attend, job, number, port) for number in killed]
        nodes += back
        until(lambda: result(job), "the end of the run")
    finally:
        end([*nodes, server])
    finished = events(job, "round_finished")
    missed = events(job, "round_missed")
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

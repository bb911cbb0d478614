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
    failures: list[str] = []
    if missed or [event["round"] for event in finished] != [1, 2, 3, 4]:
        failures.append(f"{len(missed)} rounds were missed, {[event['round'] for event in finished]} finished")
    received = [(event["round"], event["client"]) for event in events(job, "update_received")]
    if len(received) != len(set(received)):
        failures.append("an update was counted twice")
    survivors = {name for number, name in enumerate(names) if number not in killed}
    if not survivors <= {client for number, client in received if number == 2}:
        failures.append("a survivor's update of round 2 is missing")
    if round_2["received"] != len(survivors):
        failures.append(f"round 2 counted {round_2['received']} updates, expected those of {len(survivors)} survivors")
    if not {client for number, client in received if number == 4} - survivors:
        failures.append("no killed client took part again")
    return Row(
        f"{len(killed)} of {count} clients SIGKILLed mid-round",
        tried=4,
        passed=len(finished) - len(missed) if not failures else 0,
        figures={
            "killed": len(killed),
            "round over after": f"{round_2['time'] - killed_at:.1f} s",
            "updates of the last round": len([1 for number, _ in received if number == 4]),
        },
        failures=failures,
        least=4,
    )

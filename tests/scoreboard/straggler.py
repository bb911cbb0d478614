"""A client that does not answer delays a round by its deadline, not by its own time, whatever the cause.

It is stopped by a signal, trains for an hour, or its network drops everything; real processes, real gRPC.
"""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

from scoreboard.processes import Job, attend, end, events, result, serve, start, until
from scoreboard.row import Row

from tests.waiting import unused_port

DEADLINE_S = 2.0
NAMES = ("alice", "bob", "slow")


def run(*, full: bool, scratch: Path) -> Row:
    kinds = ["stopped", "endless"] * (5 if full else 1)
    over: list[float] = []
    complaints: list[str] = []
    for number, kind in enumerate(kinds):
        job = Job(
            scratch / f"{number}", {"wire": "1", "rounds": 3, "quorum": 1, "deadline_s": DEADLINE_S}, NAMES, train_s=0.2
        )
        job.folder.mkdir()
        port = unused_port()
        nodes = [start(attend, job, client, port) for client in range(2)]
        slow = replace(job, train_s=3600.0) if kind == "endless" else job
        nodes.append(start(attend, slow, 2, port))
        server = start(serve, job, port)
        try:
            if kind == "stopped":
                until(lambda job=job: [e for e in events(job, "round_started") if e["round"] == 2], "round 2")
                os.kill(nodes[2].pid, signal.SIGSTOP)
            until(lambda job=job: result(job), "the end of the run")
        finally:
            end([*nodes, server])
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

"""Asynchronous runs over gRPC with random delays and kills, each recomputed from its ledger and spool.

    python simulations/fleet/replayed.py --runs 50     # some minutes on two cores

Everything but the model is plait's own: server, nodes, coordinator, client state, each in a process of its own. Every
client takes a random time for every task. The server is killed (SIGKILL) at up to three random steps that reach its
disk, and in every second run a client is killed too and started again. The order of arrival is what the network made
it; the recorded order has to give every recorded adapter, and the last one has to be the one that the server ended
with. Writes results-replayed.json, whose runs are not made again: --runs counts them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

TESTS = Path(__file__).parents[2] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from scoreboard.processes import Job, PacedModel, attend, end, events, result, serve, start  # noqa: E402
from scoreboard.small_federation import of_numbers  # noqa: E402

from plait.features.asynchronous.buffer import Buffer  # noqa: E402
from plait.features.asynchronous.way import of_buffer  # noqa: E402
from plait.rounds.aggregator import Aggregator  # noqa: E402
from plait.rounds.audit import replay  # noqa: E402
from plait.rounds.ledger import read_events  # noqa: E402
from plait.rounds.run_directory import RunDirectory  # noqa: E402
from plait.rounds.run_state import initial_state  # noqa: E402
from plait.rounds.way import Way  # noqa: E402
from tests.waiting import unused_port  # noqa: E402

NAMES = ("alice", "bob", "carol", "dave")
BUFFER = Buffer(size=2, max_staleness=6, at_work=len(NAMES))
ROUNDS = 8
SLOWEST_S = 1.2
RESULTS = Path(__file__).parent / "results-replayed.json"


@dataclass(frozen=True)
class RandomlyPaced(PacedModel):
    """Takes another time for every task; each client is twice as slow as the one before."""

    def train(self, job):
        """Train after a while."""
        return super(RandomlyPaced, replace(self, train_s=self.train_s * random.random())).train(job)


@dataclass(frozen=True)
class AsynchronousJob(Job):
    """A federation whose clients have random speeds."""

    def model(self, number: int) -> PacedModel:
        """The data and base of a client."""
        # SIGKILL loses nothing that was written; power cuts are not this script's matter.
        os.fsync = lambda _descriptor: None
        model = super().model(number)
        return RandomlyPaced(**{**vars(model), "train_s": SLOWEST_S / 2 ** (len(self.names) - 1 - number)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50, help="runs in all, those of results-replayed.json among them")
    parser.add_argument("--at-once", type=int, default=2)
    arguments = parser.parse_args()
    report = {"rounds": ROUNDS, "clients": len(NAMES), "buffer": 2, "wire": "1", "runs": []}
    if RESULTS.exists():
        report["runs"] = json.loads(RESULTS.read_text())["runs"]
    missing = set(range(arguments.runs)) - {row["run"] for row in report["runs"]}
    with ThreadPoolExecutor(arguments.at_once) as pool:
        for done in as_completed(pool.submit(one, number) for number in sorted(missing)):
            report["runs"] = sorted([*report["runs"], done.result()], key=lambda row: row["run"])
            print(json.dumps(done.result()), flush=True)
            RESULTS.write_text(json.dumps(report, indent=1) + "\n")
    same = sum(row["same"] for row in report["runs"])
    print(f"{same} of {len(report['runs'])} runs recomputed to the same digest, {len(missing)} of them now")
    sys.exit(same < len(report["runs"]))


def one(number: int) -> dict[str, object]:
    """A run, killed here and there, and recomputed."""
    with tempfile.TemporaryDirectory() as folder:
        return killed_and_recomputed(number, Path(folder))


def killed_and_recomputed(number: int, folder: Path) -> dict[str, object]:
    """The same, in a folder."""
    chance = random.Random(number)
    arguments = {
        "rounds": ROUNDS, "eval_every": ROUNDS, "wire": "1", "keep_updates": True, "quorum": 1,
        "exchange": partial(of_buffer, buffer=BUFFER), "folds": BUFFER.size, "measures_pace": True, "attempts": 9,
    }  # fmt: skip
    job = AsynchronousJob(folder, arguments, NAMES, wide=150)
    port = unused_port()
    nodes = [start(attend, job, each, port) for each in range(len(NAMES))]
    kills = [chance.randint(5, 120) for _ in range(chance.randint(1, 3))]
    killed = clients_killed = 0
    while (found := result(job)) is None:
        fuse_at = kills[killed] if killed < len(kills) else 0
        server = start(serve, job, port, fuse_at)
        if number % 2 and not clients_killed:
            time.sleep(chance.uniform(0.2, 2.0))
            victim = chance.randrange(len(NAMES))
            end([nodes[victim]])
            nodes[victim] = start(attend, job, victim, port)
            clients_killed = 1
        server.join(300)
        end([server])
        if server.exitcode == -9:
            killed += 1
        elif server.exitcode:
            raise RuntimeError(f"run {number}: the server ended with {server.exitcode}")
    for node in nodes:
        node.join(30)
    end(nodes)
    arrived = events(job, "update_received")
    recomputed, digest = replayed(job)
    return {
        "run": number,
        "server_killed": killed,
        "clients_killed": clients_killed,
        "updates": len(arrived),
        "largest_staleness": max(event["staleness"] for event in arrived),
        "digest": digest[:16],
        "same": recomputed == ROUNDS and digest == found["said"]["shadows"][0],
    }


def replayed(job: Job) -> tuple[int, str]:
    """Rounds that the ledger and the spool give again, and the digest of the last adapter in the ledger."""
    federation, directory = job.federation(), RunDirectory.find(job.run)
    recorded = read_events(directory.ledger)

    way = of_buffer(Way(), BUFFER)

    def aggregator(refused) -> Aggregator:
        plan = federation.plan
        spool = plan.spool(
            directory,
            refused,
            ranks=federation.ranks,
            rule=federation.rule,
            base_fingerprint=of_numbers.FINGERPRINT,
        )
        return plan.aggregator(spool, way.folding, federation.optimizer)

    done = replay(recorded, initial_state(b"r" * 16, federation.ranks), aggregator, arriving=way.arriving)
    return done, [event.adapter for event in recorded if event.event == "round_finished"][-1]


if __name__ == "__main__":
    main()

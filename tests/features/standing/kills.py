"""SIGKILL at random moments of a standing server, and what must hold afterwards:

    python -m tests.features.standing.kills --kills 20 --seed 0 > kills.json

Three runs are submitted in a row (another rule, another base, one classification) to a server with four clients, none
of which is touched. A moment is a step of the three runs together, drawn from all of them, and a fraction of a second.
The same command starts the server again. Checked:

- every run ends with the adapter of its undisturbed simulation, bit for bit;
- no client trains a round twice, and every update stands in the ledger once;
- the journal has one beginning and one end of every run, and its chain and the ledgers' are intact.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from plait.features.standing.run_queue import JOURNAL_FILE
from plait.rounds.ledger import read_lines
from tests.features.standing.federation import Standing, three_runs

_STEPS = ("update_received", "round_finished")
_LOOK_S = 0.01
_MOST_WAIT_S = 0.3


def main() -> None:
    """Kill, and print what held as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=6, help="of each run")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(killed(Path(folder), kills=given.kills, rounds=given.rounds, seed=given.seed), indent=1))


def killed(folder: Path, *, kills: int, rounds: int, seed: int) -> dict[str, object]:
    """Three runs, and what held.

    Args:
        folder: an empty one.
        kills: of the server, at most one for each step of the runs.
        rounds: of each run.
        seed: of the moments.
    """
    generator, began = random.Random(seed), time.monotonic()
    federation = Standing.of_four(folder)
    asked = three_runs(folder, rounds=rounds)
    expected = {name: federation.simulated(run, folder / f"simulated-{name}") for name, run in asked.items()}
    steps = sum(_steps(folder / f"simulated-{name}") for name in asked)
    at: list[str] = []
    told: list[dict[str, object]] = []
    try:
        federation.begin()
        for name, run in asked.items():
            federation.submit(name, run)
        for step in sorted(generator.sample(range(steps), kills)):
            pause_s = generator.uniform(0.0, _MOST_WAIT_S)
            while sum(_steps(federation.directory / "runs" / name) for name in asked) < step:
                federation.until(lambda: True)
                time.sleep(_LOOK_S)
                assert not federation.entry(list(asked)[-1]).is_over, "the runs had fewer steps than their simulations"
            time.sleep(pause_s)
            federation.kill()
            at.append(_newest(federation, list(asked)))
            print(f"kill {len(at)}: {at[-1]}", file=sys.stderr, flush=True)
            federation.open()
        for name in asked:
            federation.over(name)
            told.append(_held(federation, name, expected[name]))
        alive = [process.poll() is None for name, process in federation.processes.items() if name != "server"]
    finally:
        federation.end()
    trainings = federation.trainings()
    journal = Counter(
        (str(line["event"]), str(line["run"])) for line in read_lines(federation.directory / JOURNAL_FILE)
    )
    return {
        "seed": seed,
        "rounds_of_a_run": rounds,
        "kills": len(at),
        "kills_after": dict(sorted(Counter(at).items())),
        "runs": told,
        "runs_with_the_bits_of_their_simulation": sum(bool(run["same_bits"]) for run in told),
        "trainings": trainings.total(),
        "trained_twice": sum(count - 1 for count in trainings.values()),
        "updates_recorded_twice": sum(int(str(run["recorded_twice"])) for run in told),
        "journal_says_everything_once": set(journal.values()) == {1} and len(journal) == 3 * len(told),
        "clients_untouched": all(alive),
        "seconds": round(time.monotonic() - began, 1),
    }


def _steps(run: Path) -> int:
    """How far a run is."""
    ledger = run / "ledger.jsonl"
    return sum(line["event"] in _STEPS for line in read_lines(ledger)) if ledger.exists() else 0


def _newest(federation: Standing, names: list[str]) -> str:
    """The run that has come furthest, and its newest event."""
    for name in reversed(names):
        if events := federation.kinds(name):
            return f"{name}: {events[-1]}"
    return "before the first run"


def _held(federation: Standing, name: str, expected: bytes) -> dict[str, object]:
    """What held in a run that is over."""
    lines = federation.lines(name)
    updates = Counter((line["round"], line["client"]) for line in lines if line["event"] == "update_received")
    return {
        "run": name,
        "resumed": sum(line["event"] == "resumed" for line in lines),
        "same_bits": federation.weights(name) == expected,
        "recorded_twice": sum(count - 1 for count in updates.values()),
    }


if __name__ == "__main__":
    main()

"""Time to the synchronous run's loss on a fleet of speeds 1 to 10 with a fifth of tasks failing, by the virtual clock.

    python simulations/fleet/run.py            # the tiny base, 3 seeds, a few minutes on two cores
    python simulations/fleet/run.py --base smollm2-135m --seeds 0

Compares equal steps (synchronous rounds), steps by speed and asynchronous rounds. Finished runs are not repeated, and
with --only the rows of other variants are kept. Writes results-BASE.json and prints the table. *Time* is until the
first evaluation that is at most the synchronous run's last loss, of the same seed; gains of clients, bytes and energy
are those at that moment.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from loop import run_once

from plait.ledger.events import Evaluated
from plait.ledger.fleet import tasks_of
from plait.ledger.run_view import RunView
from plait.simulation.loaded import Loaded

HERE = Path(__file__).parent
COMMON: dict = {
    "data": "stdlib", "base": "tiny", "clients": 8, "local_steps": 4, "batch_size": 2, "seq_len": 64,
    "max_held_out_sequences": 8, "personalize": 0.0, "fleet": str(HERE / "fleet.toml"),
}  # fmt: skip
SYNCHRONOUS = "equal steps"
VARIANTS = {
    SYNCHRONOUS: {"rounds": 5},
    "steps by speed": {"rounds": 10, "step_budget": "speed"},
    "asynchronous": {"rounds": 24, "rounds_mode": "async"},
}
# Of another base only the first rounds are compared.
SHORT = {SYNCHRONOUS: 3, "steps by speed": 5, "asynchronous": 16}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--base", default="tiny", help="any other than tiny has fewer rounds")
    parser.add_argument("--runs", type=Path, help="default: runs/fleet, for another base runs/fleet-BASE")
    parser.add_argument("--only", choices=VARIANTS, help="run this variant; the others' rows are in the results file")
    arguments = parser.parse_args()
    is_tiny = arguments.base == "tiny"
    results = HERE / f"results-{arguments.base}.json"
    runs = arguments.runs or Path("runs/fleet" if is_tiny else f"runs/fleet-{arguments.base}")
    common = {**COMMON, "base": arguments.base}
    variants = {name: each if is_tiny else {**each, "rounds": SHORT[name]} for name, each in VARIANTS.items()}
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    chosen = {name: each for name, each in variants.items() if arguments.only in (None, name)}
    before = json.loads(results.read_text())["results"] if arguments.only else []
    before = [row for row in before if row["variant"] not in chosen]
    targets = {row["seed"]: row["target"] for row in before}
    if arguments.only and (unknown := sorted(set(seeds) - targets.keys())):
        parser.error(f"{results.name} has no loss to reach of seeds {unknown}: run them without --only")
    loaded = Loaded()
    views = {
        (name, seed): run_once({**common, **each, "seed": seed}, runs / f"{name}-{seed}".replace(" ", "-"), loaded)
        for name, each in chosen.items()
        for seed in seeds
    }
    if not before:
        targets = {seed: last_loss(views[SYNCHRONOUS, seed]) for seed in seeds}
    rows = before + [
        {"seed": seed, "variant": name, **measured(views[name, seed], targets[seed])}
        for seed in seeds
        for name in chosen
    ]
    rows.sort(key=lambda row: (row["seed"], list(VARIANTS).index(row["variant"])))
    report = {
        "common": {**common, "fleet": "fleet.toml"},
        "variants": variants,
        "fleet": (HERE / "fleet.toml").read_text(),
        "results": rows,
    }
    results.write_text(json.dumps(report, indent=1) + "\n")
    print(
        "\n| rounds | hours: mean (seeds) | of equal steps | round | worst client's gain | median | spread | MB | kJ |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    hours = {
        name: statistics.mean(row["hours"] or float("inf") for row in rows if row["variant"] == name)
        for name in {row["variant"]: None for row in rows}
    }
    for name, mean in hours.items():
        own = [row for row in rows if row["variant"] == name]
        each = ", ".join("never" if row["hours"] is None else f"{row['hours']:.2f}" for row in own)
        reached, worst, median, spread, *sent = (
            ", ".join(shown.format(row[key]) for row in own if row.get(key) is not None)
            for key, shown in (
                ("round", "{}"), ("worst_gain", "{:.2f}"), ("median_gain", "{:.2f}"), ("spread", "{:.2f}"),
                ("mb", "{:.2f}"), ("kj", "{:.0f}"),
            )
        )  # fmt: skip
        print(f"| {name} | {mean:.2f} ({each}) | {mean / hours[SYNCHRONOUS]:.2f} |", end="")
        print(f" {reached} | {worst} | {median} | {spread} | {' | '.join(sent)} |")


def last_loss(view: RunView) -> float:
    return view.evaluations[max(view.evaluations)].loss


def measured(view: RunView, target: float) -> dict:
    base = view.evaluations[0]
    found: Evaluated | None = next(
        (each for number, each in sorted(view.evaluations.items()) if each.loss <= target), None
    )
    row = {"base": base.loss, "target": target, "last": last_loss(view), "hours_in_all": (view.virtual_s or 0.0) / 3600}
    if found is None:
        return {**row, "hours": None}
    gains = [base.by_client[name].loss - score.loss for name, score in found.by_client.items()]
    until_s = found.virtual_s or 0.0
    spent_j = math.fsum(span.energy_j or 0.0 for span in tasks_of(view) if span.ended_s <= until_s)
    return {
        **row,
        "hours": until_s / 3600,
        "round": found.round,
        "worst_gain": min(gains),
        "median_gain": statistics.median(gains),
        "spread": statistics.pstdev(gains),
        "mb": view.sent_bytes_before[found.round] / 1e6,
        "kj": spent_j / 1e3,
    }


if __name__ == "__main__":
    main()

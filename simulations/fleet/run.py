"""Time to the synchronous run's loss on a fleet of speeds 1 to 10 with a fifth of tasks failing, by the virtual clock.

    python simulations/fleet/run.py            # the tiny base, 3 seeds, a few minutes on two cores

Compares equal steps (synchronous rounds), over-selection (all eight are asked, the first five count), steps by speed
and asynchronous rounds. A sweep; finished runs are not repeated, and with --only the rows of other variants are kept.
Writes results-tiny.json and prints the table. *Time* is until the first evaluation that is at most the synchronous
run's last loss, of the same seed; *worst client* is the smallest gain of a client at that moment.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from plait.rounds.events import Evaluated
from plait.rounds.ledger import read_events
from plait.rounds.run_view import RunView
from plait.study.sweeping import sweep

HERE = Path(__file__).parent
COMMON: dict = {
    "data": "stdlib", "base": "tiny", "clients": 8, "local_steps": 4, "batch_size": 2, "seq_len": 64,
    "max_held_out_sequences": 8, "own_share": 0.0, "devices": str(HERE / "fleet.toml"),
}  # fmt: skip
SYNCHRONOUS = "equal steps"
VARIANTS = {
    SYNCHRONOUS: {"rounds": 5},
    "over-selection": {"rounds": 12, "clients_per_round": 5, "over_selection": 0.6},
    "steps by speed": {"rounds": 12, "step_budget": "speed"},
    "asynchronous": {"rounds": 12, "rounds_mode": "async", "buffer": 4},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--runs", type=Path, default=Path("runs/fleet"))
    parser.add_argument("--only", choices=VARIANTS, help="run this variant; the others' rows are in results-tiny.json")
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    chosen = {name: each for name, each in VARIANTS.items() if arguments.only in (None, name)}
    before = json.loads((HERE / "results-tiny.json").read_text())["results"] if arguments.only else []
    before = [row for row in before if row["variant"] not in chosen]
    targets = {row["seed"]: row["target"] for row in before}
    if arguments.only and (unknown := sorted(set(seeds) - targets.keys())):
        parser.error(f"results-tiny.json has no loss to reach of seeds {unknown}: run them without --only")
    done = sweep({**COMMON, "grid": {"variant": chosen}}, out=arguments.runs, seeds=seeds)
    if done.failed:
        raise SystemExit(str(dict(done.failed)))
    views = {
        (cell.place["variant"], cell.seed): RunView.of(read_events(done.path / "cells" / cell.name / "ledger.jsonl"))
        for cell in done.grid.cells
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
        "common": {**COMMON, "devices": "fleet.toml"},
        "variants": VARIANTS,
        "fleet": (HERE / "fleet.toml").read_text(),
        "results": rows,
    }
    (HERE / "results-tiny.json").write_text(json.dumps(report, indent=1) + "\n")
    print("\n| rounds | hours to the loss: mean (seeds) | of equal steps | round | worst client's gain |")
    print("|---|---|---|---|---|")
    mean = {
        name: statistics.mean(row["hours"] or float("inf") for row in rows if row["variant"] == name)
        for name in VARIANTS
    }
    for name in VARIANTS:
        own = [row for row in rows if row["variant"] == name]
        each = ", ".join("never" if row["hours"] is None else f"{row['hours']:.2f}" for row in own)
        reached = ", ".join(str(row["round"]) for row in own)
        worst = ", ".join("" if row["worst_gain"] is None else f"{row['worst_gain']:.2f}" for row in own)
        part = mean[name] / mean[SYNCHRONOUS]
        print(f"| {name} | {mean[name]:.2f} ({each}) | {part:.2f} | {reached} | {worst} |")


def last_loss(view: RunView) -> float:
    return view.evaluations[max(view.evaluations)].loss


def measured(view: RunView, target: float) -> dict:
    base = view.evaluations[0]
    found: Evaluated | None = next(
        (each for number, each in sorted(view.evaluations.items()) if each.loss <= target), None
    )
    row = {"base": base.loss, "target": target, "last": last_loss(view), "hours_in_all": (view.virtual_s or 0.0) / 3600}
    if found is None:
        return {**row, "hours": None, "round": None, "worst_gain": None, "mb": None}
    gains = [base.by_client[name].loss - score.loss for name, score in found.by_client.items()]
    sent = view.sent_bytes_before[found.round] / 1e6
    hours = (found.virtual_s or 0.0) / 3600
    return {**row, "hours": hours, "round": found.round, "worst_gain": min(gains), "mb": sent}


if __name__ == "__main__":
    main()

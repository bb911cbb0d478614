"""All aggregation rules on few and many clients whose data are alike, natural or skewed: held-out loss, spread, bytes.

    python simulations/rules/run.py --table tiny        # every rule on the tiny base
    python simulations/rules/run.py --table bbc         # accuracy of MiniLM on BBC news
    python simulations/rules/run.py --table ranks       # clients of rank 2, 4 and 8
    python simulations/rules/run.py --table smollm2     # the main rules on SmolLM2, natural clients

Every row is a `plait simulate` with exact float32 exchange, so that the rules alone differ; the learning rate of each
rule is the best of a small grid on a seed of its own, and then stands for all scenarios. Finished runs are kept in
runs/rules/TABLE and are not run again; their figures go to results-TABLE.jsonl, which `table.py` prints.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from plait.features.studies.grid import Cell
from plait.features.studies.sweeping import State, Sweep, sweep
from plait.frames import view_of
from plait.report.summary import summarise

HERE = Path(__file__).parent
TUNING_SEED = 100

Settings = Mapping[str, object]

PLAIN = {"server_optimizer": "none", "weighting": "examples", "own_share": 0}
# What a row is called, and what it adds to the scenario. Rules stand with the server optimizer `none`.
RULES: Mapping[str, Settings] = {
    name: {"rule": name, **PLAIN}
    for name in (
        "fedavg", "ffa", "rolora", "fedsvd", "flexlora", "product_mean", "flora",
        "fedex", "fedsa", "median", "trimmed_mean", "geometric_median", "krum", "multi_krum", "bulyan",
    )
} | {
    "fedsb": {"rule": "fedsb", "method": "lora_xs", **PLAIN},
    "fedavg + fedexp": {**PLAIN, "server_optimizer": "fedexp"},
    "fedavg + nesterov": {
        **PLAIN, "server_optimizer": "nesterov:lr=0.7,momentum=0.9"
    },
    "fedavg + fedadam": {
        **PLAIN, "server_optimizer": "fedadam:lr=0.003,momentum=0.9"
    },
    "fedavg + fedprox": {"correction": "fedprox:mu=0.01", **PLAIN},
    "fedavg + scaffold": {"correction": "scaffold", **PLAIN},
}  # fmt: skip
MIXED = ("zeropad", "hetlora", "rbla", "raflora", "flora", "flexlora", "product_mean")
MAIN = ("fedavg", "ffa", "flexlora", "product_mean", "flora", "fedex", "median", "fedavg + fedexp")


@dataclass(frozen=True)
class Plan:
    """One table.

    Attributes:
        common: settings of all its runs.
        scenarios: by name, what each adds.
        rules: the rows.
        learning_rates: the grid.
        tuned_on: the scenario that decides between learning rates.
        seeds: of the reported runs.
    """

    common: Settings
    scenarios: Mapping[str, Settings]
    rules: Mapping[str, Settings]
    learning_rates: Sequence[float]
    tuned_on: str
    seeds: Sequence[int] = (0, 1, 2)


SMALL = {"base": "tiny", "rounds": 5, "local_steps": 4, "batch_size": 4, "seq_len": 64, "wire": "fp32", "eval_every": 5}
SKEWS = {"iid": "iid", "natural": "natural:package", "skewed": "cluster:0.1"}
PLANS: Mapping[str, Plan] = {
    "tiny": Plan(
        SMALL,
        {f"{clients} {name}": {"clients": clients, "clients_per_round": min(clients, 8), "partition": scheme}
         for clients in (3, 20) for name, scheme in SKEWS.items()},
        RULES,
        (3e-3, 1e-2),
        "3 natural",
    ),
    "ranks": Plan(
        SMALL | {"client_ranks": "2,4,8"},
        {"8 natural": {"clients": 8, "partition": SKEWS["natural"]}},
        {name: RULES.get(name, {"rule": name, **PLAIN}) for name in MIXED},
        (1e-3, 3e-3),
        "8 natural",
    ),
    "bbc": Plan(
        {"base": "minilm-l6", "data": "bbc", "rounds": 4, "local_steps": 6, "batch_size": 8, "seq_len": 64,
         "wire": "fp32", "clients": 8, "eval_every": 4, "max_held_out_sequences": 40},
        {"8 iid": {"partition": "iid"}, "8 dirichlet 0.1": {"partition": "dirichlet:0.1"}},
        {name: RULES[name] for name in (*MAIN, "trimmed_mean", "fedavg + scaffold")},
        (1e-3, 3e-3),
        "8 iid",
    ),
    "smollm2": Plan(
        {"base": "smollm2-135m", "rounds": 5, "clients": 8, "eval_every": 5, "wire": "1",
         "max_held_out_sequences": 4},
        {"8 natural": {"partition": SKEWS["natural"]}},
        {name: RULES[name] for name in ("fedavg", "flexlora", "fedex", "fedavg + fedexp")},
        (1e-3,),
        "8 natural",
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", choices=PLANS, default="tiny")
    parser.add_argument("--only", default="", help="rows, separated by commas; all by default")
    parser.add_argument("--seeds", default="", help="instead of the table's")
    parser.add_argument("--runs", type=Path, default=Path("runs/rules"))
    options = parser.parse_args()
    plan, runs = PLANS[options.table], options.runs / options.table
    rules = {name: plan.rules[name] for name in options.only.split(",")} if options.only else plan.rules
    seeds = [int(seed) for seed in options.seeds.split(",")] if options.seeds else plan.seeds
    tuned = tune(plan, rules, runs / "tuning")
    rates = best_rates(tuned) if tuned else {}
    tuned_rules = {
        name: {**settings, "learning_rate": rates.get(name, plan.learning_rates[0])} for name, settings in rules.items()
    }
    grid = {**plan.common, "grid": {"scenario": plan.scenarios, "rule": tuned_rules}}
    done = sweep(grid, out=runs / "runs", seeds=seeds, on_run=show)
    write([tuned, done] if tuned else [done], HERE / f"results-{options.table}.jsonl")


def tune(plan: Plan, rules: Mapping[str, Settings], out: Path) -> Sweep | None:
    """Every rule at every learning rate, on a seed of its own; None if there is one rate."""
    if len(plan.learning_rates) == 1:
        return None
    scenario = {plan.tuned_on: plan.scenarios[plan.tuned_on]}
    axes = {"scenario": scenario, "rule": rules, "learning_rate": list(plan.learning_rates)}
    return sweep({**plan.common, "grid": axes}, out=out, seeds=[TUNING_SEED], on_run=show)


def best_rates(tuned: Sweep) -> Mapping[str, float]:
    """By rule, the learning rate that ends with the lowest loss."""
    ordered = tuned.frame.dropna(subset="loss").sort_values("loss")
    return ordered.groupby("rule")["learning-rate"].first().astype(float).to_dict()


def show(cell: Cell, state: State, _sweep: Sweep) -> None:
    """A line for a run that has ended."""
    print(cell.label, cell.seed, state.status, state.figures.get("loss"), state.error, flush=True)


def write(sweeps: Sequence[Sweep], results: Path) -> None:
    """Keep what the runs gave, in place of what the same runs gave before."""
    rows = {key_of(row): row for row in map(json.loads, results.read_text().splitlines() if results.exists() else ())}
    for done in sweeps:
        for cell in done.grid.cells:
            row = row_of(cell, done)
            rows[key_of(row)] = row
    results.write_text("".join(json.dumps(row) + "\n" for row in rows.values()))


def key_of(row: Mapping[str, object]) -> tuple[object, ...]:
    """What a row is of."""
    return tuple(row[name] for name in ("rule", "scenario", "learning_rate", "seed"))


def row_of(cell: Cell, done: Sweep) -> dict[str, object]:
    """The figures of a run, or why there is none."""
    place = {"rule": cell.place["rule"], "scenario": cell.place["scenario"]}
    key = {**place, "learning_rate": cell.settings["learning-rate"], "seed": cell.seed}
    if cell.name in done.failed:
        return {**key, "refused": done.failed[cell.name]}
    view = view_of(done.path / "cells" / cell.name)
    found, last = summarise(view), view.newest_round.diagnostics if view.newest_round else None
    return {
        **key,
        "base_loss": found["base_held_out_loss"],
        "held_out_loss": found["final_held_out_loss"],
        "accuracy": found.get("final_held_out_accuracy"),
        "uplink_bytes": found["uplink_bytes_per_client_round"],
        "downlink_bytes": found["downlink_bytes_per_client_round"],
        "error": last.error if last else None,
        "wall_s": round(view.wall_s, 1),
    }


if __name__ == "__main__":
    main()

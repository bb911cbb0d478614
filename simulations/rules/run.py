"""All aggregation rules on few and many clients whose data are alike, natural or skewed: held-out loss, spread, bytes.

    python simulations/rules/run.py --table tiny        # every rule on the tiny base
    python simulations/rules/run.py --table bbc         # accuracy of MiniLM on BBC news
    python simulations/rules/run.py --table ranks       # clients of rank 2, 4 and 8
    python simulations/rules/run.py --table smollm2     # the main rules on SmolLM2, natural clients

Every row is a `plait simulate` with exact float32 exchange, so that the rules alone differ; the learning rate of each
rule is the best of a small grid on a seed of its own, and then stands for all scenarios. Finished runs are kept in
results-TABLE.jsonl and are not run again. `table.py` prints the tables.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from plait.config import config_from_table
from plait.errors import PlaitError
from plait.report import summarise
from plait.rounds.ledger import read_events
from plait.rounds.run_view import RunView
from plait.simulation.execution import execute, prepare

HERE = Path(__file__).parent
TUNING_SEED = 100

Settings = Mapping[str, object]

PLAIN = {"server_optimizer": "none", "moments": "fresh", "weighting": "examples", "own_share": 0}
# What a row is called, and what it adds to the scenario. Rules stand with the server optimizer `none`.
RULES: Mapping[str, Settings] = {
    name: {"rule": name, **PLAIN}
    for name in (
        "fedavg", "ffa", "rolora", "fedrot", "lora_fair", "fedsvd", "flexlora", "product_mean", "florist", "flora",
        "fedex", "fedsa", "median", "trimmed_mean", "geometric_median", "krum", "multi_krum", "bulyan",
    )
} | {
    "fedsb": {"rule": "fedsb", "method": "lora_xs", **PLAIN},
    "fedavg + fedexp": {**PLAIN, "server_optimizer": "fedexp"},
    "fedavg + nesterov": {
        **PLAIN, "server_optimizer": "nesterov", "server_learning_rate": 0.7, "server_momentum": 0.9
    },
    "fedavg + fedadam": {
        **PLAIN, "server_optimizer": "fedadam", "server_learning_rate": 0.003, "server_momentum": 0.9
    },
    "fedavg + fedprox": {"proximal": 0.01, **PLAIN},
    "fedavg + scaffold": {"scaffold": True, **PLAIN},
    "fedavg + carried moments": {**PLAIN, "moments": "carry"},
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
    options = parser.parse_args()
    plan, results = PLANS[options.table], HERE / f"results-{options.table}.jsonl"
    wanted = options.only.split(",") if options.only else list(plan.rules)
    seeds = [int(seed) for seed in options.seeds.split(",")] if options.seeds else plan.seeds
    rates = {rule: tune(plan, rule, results) for rule in wanted}
    for seed, scenario, rule in product(seeds, plan.scenarios, wanted):
        once(plan, rule, scenario, rates[rule], seed, results)


def tune(plan: Plan, rule: str, results: Path) -> float:
    """The learning rate that ends with the lowest loss on the tuning seed."""
    if len(plan.learning_rates) == 1:
        return plan.learning_rates[0]
    losses = {
        rate: once(plan, rule, plan.tuned_on, rate, TUNING_SEED, results).get("held_out_loss")
        for rate in plan.learning_rates
    }
    there = {rate: loss for rate, loss in losses.items() if isinstance(loss, float)}
    return min(there, key=there.__getitem__) if there else plan.learning_rates[0]


def once(plan: Plan, rule: str, scenario: str, rate: float, seed: int, results: Path) -> Mapping[str, object]:
    """One run, or what it gave when it was run before."""
    key = {"rule": rule, "scenario": scenario, "learning_rate": rate, "seed": seed}
    for row in read(results):
        if all(row[name] == value for name, value in key.items()):
            return row
    table = {**plan.common, **plan.scenarios[scenario], **plan.rules[rule], "learning_rate": rate, "seed": seed}
    row = key | run(table)
    with results.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)
    return row


def run(table: Mapping[str, object]) -> dict[str, object]:
    """The figures of a simulation, or why there is none."""
    started, folder = time.perf_counter(), Path(tempfile.mkdtemp())
    try:
        resolved, data = prepare(config_from_table({**table, "out": str(folder / "run")}, where="scenario"), quiet=True)
        execute(resolved, data, quiet=True)
        view = RunView.of(read_events(folder / "run" / "ledger.jsonl"))
    except PlaitError as error:
        return {"refused": str(error)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found = summarise(view)
    last = view.newest_round.diagnostics if view.newest_round else None
    return {
        "base_loss": found["base_held_out_loss"],
        "held_out_loss": found["final_held_out_loss"],
        "accuracy": found.get("final_held_out_accuracy"),
        "uplink_bytes": found["uplink_bytes_per_client_round"],
        "downlink_bytes": found["downlink_bytes_per_client_round"],
        "error": last.error if last else None,
        "wall_s": round(time.perf_counter() - started, 1),
    }


def read(results: Path) -> Iterator[dict[str, object]]:
    """The rows that are there."""
    if results.exists():
        yield from (json.loads(line) for line in results.read_text().splitlines())


if __name__ == "__main__":
    main()

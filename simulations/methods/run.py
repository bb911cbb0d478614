"""Every method of adapting a base, federated end to end: parameters, bytes, step time, peak memory, held-out loss.

    python simulations/methods/run.py --table tiny                    # language model of a million parameters
    python simulations/methods/run.py --table minilm                  # classification with MiniLM on BBC news
    python simulations/methods/run.py --table smollm2 --only vera     # one method on SmolLM2-135M
    python simulations/methods/run.py --table tiny --sweep            # learning rates that defaults were chosen by

Every row is a `plait simulate --method NAME` with exact float32 exchange in a process of its own, so that its peak
memory is its own. Finished rows are kept in results-TABLE.jsonl and are not run again; `table.py` prints the tables.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from plait import machine
from plait.adapters.methods import METHODS, method_named
from plait.config import config_from_table
from plait.errors import PlaitError
from plait.report.summary import summarise
from plait.rounds.ledger import read_events
from plait.rounds.run_view import RunView
from plait.simulation.execution import execute, prepare

HERE = Path(__file__).parent
TUNING_SEED = 100
# FedAvg as it is in the literature, so that methods alone differ.
PLAIN = {"wire": "fp32", "weighting": "examples", "server_optimizer": "none", "own_share": 0}
RATES = "-rates.jsonl"

Settings = Mapping[str, object]


@dataclass(frozen=True)
class Plan:
    """One table.

    Attributes:
        common: settings of all its runs.
        tuning: what the runs that choose a learning rate have instead.
        seeds: of the reported runs.
        left_out: methods that this base or task cannot have.
    """

    common: Settings
    tuning: Settings
    seeds: Sequence[int]
    left_out: frozenset[str] = frozenset()


PLANS: Mapping[str, Plan] = {
    "tiny": Plan(
        {"base": "tiny", "data": "stdlib", "clients": 4, "rounds": 3, "local_steps": 4, "batch_size": 4, "seq_len": 64,
         "max_held_out_sequences": 40},
        {},
        (0, 1, 2),
    ),
    "minilm": Plan(
        {"base": "minilm-l6", "data": "bbc", "partition": "iid", "clients": 4, "rounds": 3, "local_steps": 4,
         "batch_size": 8, "seq_len": 64, "max_held_out_sequences": 25},
        {},
        (0, 1, 2),
        frozenset({"prefix"}),
    ),
    "smollm2": Plan(
        {"base": "smollm2-135m", "data": "stdlib", "clients": 2, "rounds": 2, "local_steps": 2, "seq_len": 64,
         "max_held_out_sequences": 4},
        # One client alone takes as many steps as it would in the federation.
        {"clients": 1, "rounds": 1, "local_steps": 12},
        (0,),
    ),
}  # fmt: skip
# Multiples of the method's own learning rate that a sweep tries.
MULTIPLES = (0.3, 1.0, 3.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", choices=PLANS, default="tiny")
    parser.add_argument("--only", default="", help="methods, separated by commas; all by default")
    parser.add_argument("--seeds", default="", help="instead of the table's")
    parser.add_argument("--sweep", action="store_true", help="try learning rates on a seed of its own")
    parser.add_argument("--rates", default="", help="learning rates of the sweep, instead of multiples of the default")
    parser.add_argument("--dtype", default="", help="compute type, instead of what fits the machine")
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run(json.loads(options.one))))
        return
    plan = PLANS[options.table]
    results = HERE / f"results-{options.table}{RATES if options.sweep else '.jsonl'}"
    wanted = options.only.split(",") if options.only else [name for name in METHODS if name not in plan.left_out]
    seeds = [TUNING_SEED] if options.sweep else [int(seed) for seed in options.seeds.split(",") if seed] or plan.seeds
    more = {"dtype": options.dtype} if options.dtype else {}
    for method in wanted:
        own = method_named(method).learning_rate
        given = [float(rate) for rate in options.rates.split(",") if rate]
        rates = given or [own * multiple for multiple in MULTIPLES] if options.sweep else [own]
        for rate in rates:
            for seed in seeds:
                settings = {**plan.common, **(plan.tuning if options.sweep else {}), **more, "learning_rate": rate}
                once(results, method, settings | {"seed": seed})


def once(results: Path, method: str, settings: Settings) -> None:
    """One run in a process of its own, unless it was run before."""
    key = {"method": method, "learning_rate": settings["learning_rate"], "seed": settings["seed"]}
    if any(all(row[name] == value for name, value in key.items()) for row in read(results)):
        return
    if results.name.endswith(RATES):
        # Memory is of no interest.
        write(results, key | run({**settings, "method": method}))
        return
    command = [sys.executable, __file__, "--one", json.dumps({**settings, "method": method})]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    write(results, key | json.loads(done.stdout.splitlines()[-1]))


def write(results: Path, row: Mapping[str, object]) -> None:
    """Keep and show a row."""
    with results.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


def run(table: Settings) -> dict[str, object]:
    """The figures of a simulation, or why there is none."""
    folder = Path(tempfile.mkdtemp())
    given = {**PLAIN, "eval_every": table["rounds"], **table, "out": str(folder / "run")}
    try:
        resolved, data = prepare(config_from_table(given, where="scenario"), quiet=True)
        execute(resolved, data, quiet=True)
        view = RunView.of(read_events(folder / "run" / "ledger.jsonl"))
    except PlaitError as error:
        return {"refused": str(error)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found = summarise(view)
    steps = resolved.config.local_steps
    return {
        "parameters": view.start.adapter.trainable_parameters,
        "full_parameters": view.start.base.parameters,
        "uplink_bytes": found["uplink_bytes_per_client_round"],
        "downlink_bytes": found["downlink_bytes_per_client_round"],
        "step_s": round(statistics.median(each.train_s / steps for each in view.updates.values() if each.train_s), 4),
        "peak_bytes": machine.peak_rss_bytes(),
        "base_loss": found["base_held_out_loss"],
        "held_out_loss": found["final_held_out_loss"],
        "base_accuracy": found.get("base_held_out_accuracy"),
        "accuracy": found.get("final_held_out_accuracy"),
        "dtype": view.start.machine["dtype"],
    }


def read(results: Path) -> Iterator[dict[str, object]]:
    """The rows that are there."""
    if results.exists():
        yield from (json.loads(line) for line in results.read_text().splitlines())


if __name__ == "__main__":
    main()

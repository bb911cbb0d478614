"""The streaming product mean beside FlexLoRA: time, memory and error of one round, by cohort and by drift.

    OMP_NUM_THREADS=1 python simulations/aggregate/product_mean.py          # SmolLM2-135M, rank 8; about 20 minutes

Both rules get the same made-up updates (simulations/bench/updates.py). *Excess* is by how much the result is further
from the exact mean than the best adapter of its rank, relative to the norm of the exact mean; for FlexLoRA it is
rounding. *Bound* is what the product mean certifies for it without knowing the exact mean. Time is processor time of
one core, memory what a process of its own had resident above what it had before the round. Writes
results-product-mean.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from pathlib import Path

import numpy as np

from plait.aggregation import RULES, geometry_of
from plait.aggregation.exact_mean import ExactMean
from plait.aggregation.low_rank import LowRank
from plait.aggregation.step import landing
from plait.config import config_from_table
from plait.run import blueprint_of
from plait.settle import settle
from plait.training.bases import locate_config
from simulations.bench.footprint import measure
from simulations.bench.updates import Drift, Updates

HERE = Path(__file__).parent
RULE_NAMES = ("flexlora", "product_mean")
COHORTS = (4, 16, 64, 256)
DRIFTS = (0.01, 0.1, 0.5)


def timed(rule, updates, deltas, clients):
    started = time.process_time()
    accumulator = rule.begin(updates.context)
    for client in range(clients):
        accumulator.add(updates.contribution(client, deltas[client]))
    outcome = accumulator.finish()
    return outcome, time.process_time() - started


def errors(updates, deltas, clients, outcomes, factors):
    """Excess of each outcome over the best adapter, and the norm of the exact mean, over all modules."""
    exact = ExactMean(updates.context)
    for client in range(clients):
        exact.add(updates.contribution(client, deltas[client]))
    size = least = 0.0
    squares = dict.fromkeys(outcomes, 0.0)
    for pair in factors.pairs:
        product = exact.product(pair)
        singular = product.svd().s
        size += float(np.square(singular).sum())
        least += float(np.square(singular[pair.rank :]).sum())
        for name, outcome in outcomes.items():
            landed = landing(outcome.step, updates.context.master)
            b, a = pair.b_of(landed).astype(np.float64), pair.a_of(landed).astype(np.float64)
            squares[name] += product.plus(LowRank(pair.scale * b, a), factor=-1.0).norm() ** 2
    return (
        {name: (square**0.5 - least**0.5) / size**0.5 for name, square in squares.items()},
        (least / size) ** 0.5,
        size,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--cohorts", default=",".join(map(str, COHORTS)))
    parser.add_argument("--drifts", default=",".join(map(str, DRIFTS)))
    parser.add_argument("--shared", type=float, default=0.5)
    parser.add_argument("--name", default="product-mean")
    arguments = parser.parse_args()
    config = config_from_table({"base": arguments.base, "rank": arguments.rank})
    factors = geometry_of(blueprint_of(settle(config), locate_config(arguments.base, revision="")).spec)
    cohorts = [int(count) for count in arguments.cohorts.split(",")]
    drifts = [float(drift) for drift in arguments.drifts.split(",")]
    results: list[dict] = []
    for clients in cohorts:
        memory = {
            name: measure(name, factors, early=clients, updates=clients, seconds=0).peak_bytes for name in RULE_NAMES
        }
        for drift in drifts:
            updates = Updates(RULES["flexlora"], factors, seed=0, drift=Drift(drift, arguments.shared))
            deltas = [updates.delta(client) for client in range(clients)]
            rounds = {name: timed(RULES[name], updates, deltas, clients) for name in RULE_NAMES}
            outcomes = {name: outcome for name, (outcome, _) in rounds.items()}
            excess, best, size = errors(updates, deltas, clients, outcomes, factors)
            row = {
                "clients": clients,
                "drift": drift,
                "shared": arguments.shared,
                "best_relative_error": best,
                "product_mean_excess_bound": outcomes["product_mean"].figures["excess_bound"] / size**0.5,
                **{f"{name}_excess": excess[name] for name in RULE_NAMES},
                **{f"{name}_s": rounds[name][1] for name in RULE_NAMES},
                **{f"{name}_bytes": memory[name] for name in RULE_NAMES},
            }
            results.append(row)
            print(json.dumps(row), flush=True)
            (HERE / f"results-{arguments.name}.json").write_text(json.dumps(results, indent=1) + "\n")
    print(
        "\n| clients | drift | best adapter's error | excess: product mean (bound), FlexLoRA | seconds: product mean, "
        "FlexLoRA | MB: product mean, FlexLoRA |\n|---|---|---|---|---|---|"
    )
    for row in results:
        print(
            f"| {row['clients']} | {row['drift']:g} | {row['best_relative_error']:.2%} "
            f"| {row['product_mean_excess']:.1e} ({row['product_mean_excess_bound']:.1e}), "
            f"{row['flexlora_excess']:.0e} "
            f"| {row['product_mean_s']:.1f}, {row['flexlora_s']:.1f} "
            f"| {row['product_mean_bytes'] / 1e6:,.0f}, {row['flexlora_bytes'] / 1e6:,.0f} |"
        )


if __name__ == "__main__":
    multiprocessing.freeze_support()
    main()

"""Held-out loss against bits per parameter: the same federated run at several rates of the wire, over several seeds.

    python simulations/wire/run.py                              # 3 seeds x 3 rates of SmolLM2-135M, about an hour
    python simulations/wire/run.py --base tiny --name tiny      # the same on the tiny base, a few minutes

Runs config.toml over wires and seeds; finished runs are not repeated. Writes results-NAME.json and prints
the table. *Kept* is the improvement over the base, as a fraction of that of exact float32 exchange with the same seed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from loop import run_once

from plait.report.summary import summarise
from plait.settings.table import read_config_table
from plait.simulation.loaded import Loaded

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--name", default="smollm2-135m")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--wires", default="fp32,1")
    parser.add_argument("--runs", type=Path, default=Path("runs/wire"))
    arguments = parser.parse_args()
    wires, seeds = arguments.wires.split(","), [int(seed) for seed in arguments.seeds.split(",")]
    common, loaded = {**read_config_table(HERE / "config.toml"), "base": arguments.base}, Loaded()
    results: dict[str, list[dict]] = {wire: [] for wire in wires}
    for wire, seed in itertools.product(wires, seeds):
        path = arguments.runs / arguments.name / f"{wire}-{seed}"
        summary = summarise(run_once({**common, "bits": wire, "seed": seed}, path, loaded))
        kept = ("held_out_loss_by_round", "uplink_bytes", "downlink_bytes", "savings_vs_full_model", "wall_s")
        row = {"seed": seed, "gain": summary["base_held_out_loss"] - summary["final_held_out_loss"]}
        row |= {key: summary[key] for key in kept}
        results[wire].append(row | {"sent_bytes": row["uplink_bytes"] + row["downlink_bytes"]})
    exact = {row["seed"]: row["gain"] for row in results[wires[0]]}
    for rows in results.values():
        for row in rows:
            row["kept"] = row["gain"] / exact[row["seed"]]
    report = {"base": arguments.base, "config": (HERE / "config.toml").read_text(), "results": results}
    (HERE / f"results-{arguments.name}.json").write_text(json.dumps(report, indent=1) + "\n")
    print("\n| wire | kept of the fp32 gain: mean (least) | sent in all | below full-model fp32 |\n|---|---|---|---|")
    for wire, rows in results.items():
        kept = [row["kept"] for row in rows]
        sent = statistics.mean(row["sent_bytes"] for row in rows)
        below = statistics.mean(row["savings_vs_full_model"] for row in rows)
        print(f"| {wire} | {statistics.mean(kept):.1%} ({min(kept):.1%}) | {sent / 1e6:.2f} MB | {below:,.0f}x |")


if __name__ == "__main__":
    main()

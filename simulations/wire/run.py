"""Held-out loss against bits per parameter: the same federated run at several rates of the wire, over several seeds.

    python simulations/wire/run.py                              # 3 seeds x 3 rates of SmolLM2-135M, about an hour
    python simulations/wire/run.py --base tiny --name tiny      # the same on the tiny base, a few minutes

Every run is a `plait simulate` with config.toml; finished runs are not repeated. Writes results-NAME.json and prints
the table. *Kept* is the improvement over the base, as a fraction of that of exact float32 exchange with the same seed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def run(wire: str, seed: int, base: str, runs: Path) -> dict:
    out = runs / f"wire-{wire}-seed-{seed}"
    if not (out / "summary.json").exists():
        command = [sys.executable, "-m", "plait.cli.main", "simulate", "--config", HERE / "config.toml", "--base", base]
        command += ["--wire", wire, "--seed", seed, "--out", out, "--json"]
        subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
    return json.loads((out / "summary.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--name", default="smollm2-135m")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--wires", default="fp32,1,0.25")
    parser.add_argument("--runs", type=Path, default=Path("runs/wire"))
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    wires = arguments.wires.split(",")
    runs = arguments.runs / arguments.name
    runs.mkdir(parents=True, exist_ok=True)
    results: dict[str, list[dict]] = {wire: [] for wire in wires}
    for seed in seeds:
        for wire in wires:
            summary = run(wire, seed, arguments.base, runs)
            gain = summary["base_held_out_loss"] - summary["final_held_out_loss"]
            sent = summary["uplink_bytes"] + summary["downlink_bytes"]
            row = {
                "seed": seed,
                "held_out_loss_by_round": summary["held_out_loss_by_round"],
                "gain": gain,
                "uplink_bytes": summary["uplink_bytes"],
                "downlink_bytes": summary["downlink_bytes"],
                "sent_bytes": sent,
                "savings_vs_full_model": summary["savings_vs_full_model"],
                "wall_s": summary["wall_s"],
            }
            results[wire].append(row)
            print(f"seed {seed}  wire {wire:>5}  gain {gain:.4f}  sent {sent / 1e6:.2f} MB", flush=True)
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

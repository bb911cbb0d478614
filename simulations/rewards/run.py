"""A federation that learns from a reward: mean reward by round, of completions sampled before each round's training.

    python simulations/rewards/run.py --base tiny           # format, a minute
    python simulations/rewards/run.py --base smollm2-135m   # format and sums, hours on two cores

Four clients with sums of two one-digit numbers, each with others. A sweep; finished runs are kept in runs/rewards.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

import plait
from plait.study.sweeping import sweep

HERE = Path(__file__).parent
CLIENTS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="tiny")
    parser.add_argument("--rewards", nargs="*", default=["brief"])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--local-steps", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=0.002)
    parser.add_argument("--wire", default="1")
    parser.add_argument("--runs", type=Path, default=Path("runs/rewards"))
    options = parser.parse_args()
    sys.path.insert(0, str(HERE))
    options.runs.mkdir(parents=True, exist_ok=True)
    data = write_sums(options.runs / "sums.jsonl")
    grid = {
        "data": str(data), "base": options.base, "partition": "natural:client", "clients": CLIENTS,
        "rounds": options.rounds, "local_steps": options.local_steps, "batch_size": 4, "seq_len": 64, "method": "lora",
        "rank": 8, "learning_rate": options.learning_rate, "wire": options.wire, "take_back": False,
        "grid": {"trainer": [f"sums:{reward}" for reward in options.rewards]},
    }  # fmt: skip
    done = sweep(grid, out=options.runs / options.base, seeds=options.seeds)
    if done.failed:
        raise SystemExit(str(dict(done.failed)))
    for cell in done.grid.cells:
        updates = plait.open_run(done.path / "cells" / cell.name).updates
        by_round = -updates.groupby("round")["first_loss"].mean()
        row = {"base": options.base, "reward": cell.place["trainer"], "wire": options.wire, "seed": cell.seed}
        print(json.dumps({**row, "by_round": [round(float(each), 3) for each in by_round]}), flush=True)


def write_sums(path: Path) -> Path:
    """A hundred sums of one-digit numbers in random order, a quarter of them at each client."""
    chance = random.Random(0)
    pairs = [(left, right) for left in range(10) for right in range(10)]
    chance.shuffle(pairs)
    with path.open("w") as file:
        for number, (left, right) in enumerate(pairs):
            record = {"prompt": f"{left} + {right} =", "completion": f" {left + right}"}
            file.write(json.dumps({**record, "client": f"c{number % CLIENTS}"}) + "\n")
    return path


if __name__ == "__main__":
    main()

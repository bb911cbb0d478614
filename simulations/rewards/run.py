"""A federation that learns from a reward: mean reward by round, sampled in training and of held-out prompts.

    python simulations/rewards/run.py --base tiny                # a format, a minute
    python simulations/rewards/run.py --base smollm2-135m --rewards right --seeds 0   # sums, minutes a seed on one core

Four clients (SmolLM2: two) with sums of two one-digit numbers, each with others. Finished runs are kept in
runs/rewards; results-BASE.jsonl has a row as soon as a run has ended.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Mapping
from pathlib import Path

from plait.features.studies.grid import Cell
from plait.features.studies.sweeping import State, Sweep, sweep
from plait.frames import view_of
from plait.plugins import admit
from plait.report.summary import summarise

HERE = Path(__file__).parent
SIZES: Mapping[str, Mapping[str, object]] = {
    "tiny": {
        "clients": 4, "rounds": 6, "local_steps": 4, "batch_size": 4, "learning_rate": 0.002,
        "max_held_out_sequences": 16,
    },
    "smollm2-135m": {
        "clients": 2, "rounds": 5, "local_steps": 3, "batch_size": 4, "learning_rate": 0.001,
        "max_held_out_sequences": 16,
    },
}  # fmt: skip
FIGURES = (
    "train_reward_by_round", "reward_by_round", "base_reward", "final_reward", "final_reward_interval", "own_reward",
    "reward_by_client", "refused_completions", "uplink_bytes", "wall_s",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", choices=SIZES, default="tiny")
    parser.add_argument("--rewards", nargs="*", default=["brief"])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=0, help="instead of the base's own number")
    parser.add_argument("--learning-rate", type=float, default=0.0, help="instead of the base's own")
    parser.add_argument("--wire", default="1")
    parser.add_argument("--runs", type=Path, default=Path("runs/rewards"))
    options = parser.parse_args()
    sys.path.insert(0, str(HERE))
    given = {"rounds": options.rounds, "learning_rate": options.learning_rate}
    size = {**SIZES[options.base], **{key: value for key, value in given.items() if value}}
    out = options.runs / options.base
    out.mkdir(parents=True, exist_ok=True)
    data = write_sums(out / "sums.jsonl", clients=int(str(size["clients"])))
    grid = {
        "data": str(data), "base": options.base, "partition": "natural:client", "seq_len": 64, "method": "lora",
        "rank": 8, "wire": options.wire, **size,
        "grid": {"objective": [f"grpo:beta=0,max-completion-tokens=8,reward=sums:{each}" for each in options.rewards]},
    }  # fmt: skip
    admit("sums")
    results = HERE / f"results-{options.base}.jsonl"

    def ended(cell: Cell, state: State, all_runs: Sweep) -> None:
        print(cell.label, cell.seed, state.status, state.error, flush=True)
        if state.status == "finished":
            found = summarise(view_of(all_runs.path / "cells" / cell.name))
            key = {
                "reward": str(cell.place["objective"]).partition("reward=")[2],
                "wire": options.wire,
                "rate": size["learning_rate"],
                "rounds": size["rounds"],
                "seed": cell.seed,
            }
            keep(results, key, {name: found[name] for name in FIGURES})

    done = sweep(grid, out=out / "runs", seeds=options.seeds, on_run=ended)
    if done.failed:
        raise SystemExit(str(dict(done.failed)))


def keep(results: Path, key: Mapping[str, object], figures: Mapping[str, object]) -> None:
    """Add a row, or put it in the place of an earlier one of the same run."""
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    others = [each for each in rows if any(each[name] != value for name, value in key.items())]
    results.write_text("".join(json.dumps(each) + "\n" for each in [*others, {**key, **figures}]))


def write_sums(path: Path, *, clients: int) -> Path:
    """A hundred sums of one-digit numbers in random order, equally many at each client."""
    chance = random.Random(0)
    pairs = [(left, right) for left in range(10) for right in range(10)]
    chance.shuffle(pairs)
    with path.open("w") as file:
        for number, (left, right) in enumerate(pairs):
            record = {"prompt": f"{left} + {right} =", "completion": f" {left + right}"}
            file.write(json.dumps({**record, "client": f"c{number % clients}"}) + "\n")
    return path


if __name__ == "__main__":
    main()

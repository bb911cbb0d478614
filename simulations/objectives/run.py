"""Preferences of clients who agree and of clients who contradict each other: held-out reward accuracy, alone to pooled.

    python simulations/objectives/run.py --base tiny           # minutes
    python simulations/objectives/run.py --base smollm2-135m   # hours on two cores

Pairs are made of the chatterbot corpus, one language per client: chosen is the reply that was given, rejected one from
another conversation of the same language. Where clients contradict each other, every second one has the two swapped.
Finished runs are kept in runs/objectives and are not run again; results-BASE.jsonl has their figures.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from plait.data import as_dataset
from plait.report import summarise
from plait.study.frames import view_of
from plait.study.grid import Cell
from plait.study.sweeping import State, Sweep, sweep

HERE = Path(__file__).parent
CLIENTS = 8
MOST_PAIRS = 240
SIZES: Mapping[str, Mapping[str, object]] = {
    "tiny": {"rounds": 8, "local_steps": 8, "batch_size": 8, "seq_len": 96, "max_held_out_sequences": 24},
    "smollm2-135m": {"rounds": 8, "local_steps": 6, "batch_size": 4, "seq_len": 128, "max_held_out_sequences": 24},
}
OBJECTIVES = ("dpo", "ipo", "orpo", "kto", "simpo")
FIGURES = (
    "base_reward_accuracy", "final_reward_accuracy", "final_reward_accuracy_interval", "own_reward_accuracy",
    "reference_reward_accuracy", "final_reward_margin", "reward_accuracy_by_round", "reward_accuracy_by_client",
    "final_held_out_loss", "uplink_bytes", "wall_s",
)  # fmt: skip


def main() -> None:
    """Make the pairs, run what is missing and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", choices=SIZES, default="tiny")
    parser.add_argument("--objectives", nargs="*", default=OBJECTIVES)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=0, help="instead of the base's own number")
    parser.add_argument("--runs", type=Path, default=Path("runs/objectives"))
    options = parser.parse_args()
    size = {**SIZES[options.base], **({"rounds": options.rounds} if options.rounds else {})}
    out = options.runs / options.base
    out.mkdir(parents=True, exist_ok=True)
    grid = {
        "base": options.base, "clients": CLIENTS, "partition": "natural:language", "eval_every": 2, **size,
        "grid": {
            "preferences": {
                name: {"data": str(write_pairs(out / f"{name}.jsonl", contradict=name == "contradict"))}
                for name in ("agree", "contradict")
            },
            "objective": list(options.objectives),
            # Baselines do not depend on the wire: they are trained once.
            "exchange": {"1 bit": {"wire": "1"}, "fp32": {"wire": "fp32", "reference": "central,local"}},
        },
    }  # fmt: skip
    done = sweep(grid, out=out / "runs", seeds=options.seeds, on_run=show)
    results = HERE / f"results-{options.base}.jsonl"
    results.write_text("".join(json.dumps(row_of(cell, done)) + "\n" for cell in done.grid.cells))


def write_pairs(path: Path, *, contradict: bool) -> Path:
    """The pairs of the languages with the most conversations, as JSON lines."""
    by_language: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for record in as_dataset("chatterbot").records:
        by_language[record.columns["language"]].append((record.prompt, record.completion))
    largest = sorted(by_language, key=lambda name: (-len(by_language[name]), name))[:CLIENTS]
    chance = random.Random(0)
    with path.open("w") as file:
        for number, language in enumerate(largest):
            conversations = by_language[language]
            for prompt, reply in chance.sample(conversations, min(MOST_PAIRS, len(conversations))):
                other = chance.choice(
                    [answer for asked, answer in conversations if asked != prompt and answer != reply]
                )
                sides = (other, reply) if contradict and number % 2 else (reply, other)
                row = {"prompt": prompt, "chosen": sides[0], "rejected": sides[1], "language": language}
                file.write(json.dumps(row) + "\n")
    return path


def show(cell: Cell, state: State, _sweep: Sweep) -> None:
    """A line for a run that has ended."""
    print(cell.label, cell.seed, state.status, state.figures.get("loss"), state.error, flush=True)


def row_of(cell: Cell, done: Sweep) -> dict[str, object]:
    """The figures of a run, or why there is none."""
    key: dict[str, object] = {**cell.place, "seed": cell.seed}
    if cell.name in done.failed:
        return {**key, "refused": done.failed[cell.name]}
    found = summarise(view_of(done.path / "cells" / cell.name))
    return {**key, **{name: found[name] for name in FIGURES}}


if __name__ == "__main__":
    main()

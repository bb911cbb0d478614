"""Preferences of clients who agree and of clients who contradict each other: held-out reward accuracy, alone to pooled.

    python simulations/objectives/run.py --base tiny           # minutes
    python simulations/objectives/run.py --quick --seeds 0 1 2   # SmolLM2, minutes a run on one core
    python simulations/objectives/run.py --base smollm2-135m   # hours on two cores

Pairs are made of the chatterbot corpus, one language per client: chosen is the reply that was given, rejected one from
another conversation of the same language. Where clients contradict each other, every second one has the two swapped.
With `--quick`, four clients with the largest languages in Latin script, who agree, and DPO. Finished runs are kept in
runs/objectives and are not run again; results-NAME.jsonl has their figures, a row as soon as a run has ended.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from plait.data import as_dataset
from plait.features.studies.grid import Cell
from plait.features.studies.sweeping import State, Sweep, sweep
from plait.frames import view_of
from plait.report.summary import summarise

HERE = Path(__file__).parent
CLIENTS = 8
QUICK = "smollm2-quick"
MOST_PAIRS = 240
SIZES: Mapping[str, Mapping[str, object]] = {
    "tiny": {"rounds": 8, "local_steps": 8, "batch_size": 8, "seq_len": 96, "max_held_out_sequences": 24},
    "smollm2-135m": {"rounds": 8, "local_steps": 6, "batch_size": 4, "seq_len": 128, "max_held_out_sequences": 24},
    QUICK: {
        "base": "smollm2-135m", "rounds": 4, "local_steps": 3, "batch_size": 4, "seq_len": 96,
        "max_held_out_sequences": 24, "eval_every": 4,
    },
}  # fmt: skip
LATIN = ("english", "italian", "portuguese", "dutch")
OBJECTIVES = ("dpo", "ipo", "orpo", "kto", "simpo")
KEY = ("preferences", "objective", "exchange", "seed")
FIGURES = (
    "base_reward_accuracy", "final_reward_accuracy", "final_reward_accuracy_interval", "own_reward_accuracy",
    "reference_reward_accuracy", "final_reward_margin", "reward_accuracy_by_round", "reward_accuracy_by_client",
    "final_held_out_loss", "uplink_bytes", "wall_s",
)  # fmt: skip


def main() -> None:
    """Make the pairs, run what is missing and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--base", choices=[name for name in SIZES if name != QUICK], default="tiny")
    which.add_argument("--quick", action="store_true", help="SmolLM2 with four clients")
    parser.add_argument("--objectives", nargs="*", default=None)
    parser.add_argument("--preferences", nargs="*", choices=("agree", "contradict"), default=None)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=0, help="instead of the base's own number")
    parser.add_argument("--runs", type=Path, default=Path("runs/objectives"))
    options = parser.parse_args()
    name = QUICK if options.quick else options.base
    size = {"base": name, **SIZES[name], **({"rounds": options.rounds} if options.rounds else {})}
    languages = LATIN if options.quick else largest_languages()
    out = options.runs / name
    out.mkdir(parents=True, exist_ok=True)
    kinds = options.preferences or (["agree"] if options.quick else ["agree", "contradict"])
    pairs = {kind: write_pairs(out / f"{kind}.jsonl", languages, contradict=kind == "contradict") for kind in kinds}
    grid = {
        "clients": len(languages), "partition": "natural:language", "eval_every": 2, **size,
        "grid": {
            "preferences": {kind: {"data": str(path)} for kind, path in pairs.items()},
            "objective": list(options.objectives or (["dpo"] if options.quick else OBJECTIVES)),
            # Baselines do not depend on the wire: they are trained once.
            "exchange": {"1 bit": {"wire": "1"}, "fp32": {"wire": "fp32", "reference": "central,local"}},
        },
    }  # fmt: skip
    results = HERE / f"results-{name}.jsonl"

    def ended(cell: Cell, state: State, all_runs: Sweep) -> None:
        print(cell.label, cell.seed, state.status, state.figures.get("loss"), state.error, flush=True)
        if state.status == "interrupted":
            return
        keep(results, row_of(cell, all_runs))

    sweep(grid, out=out / "runs", seeds=options.seeds, on_run=ended)


def keep(results: Path, row: Mapping[str, object]) -> None:
    """Add a row, or put it in the place of an earlier one of the same run."""
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    others = [each for each in rows if any(each[name] != row[name] for name in KEY)]
    results.write_text("".join(json.dumps(each) + "\n" for each in [*others, row]))


def conversations_by_language() -> Mapping[str, list[tuple[str, str]]]:
    """What was said and what was replied."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for record in as_dataset("chatterbot").records:
        found[record.columns["language"]].append((record.prompt, record.completion))
    return found


def largest_languages() -> Sequence[str]:
    """Those with the most conversations."""
    found = conversations_by_language()
    return sorted(found, key=lambda language: (-len(found[language]), language))[:CLIENTS]


def write_pairs(path: Path, languages: Sequence[str], *, contradict: bool) -> Path:
    """The pairs of these languages, as JSON lines."""
    by_language = conversations_by_language()
    chance = random.Random(0)
    with path.open("w") as file:
        for number, language in enumerate(languages):
            conversations = by_language[language]
            for prompt, reply in chance.sample(conversations, min(MOST_PAIRS, len(conversations))):
                other = chance.choice(
                    [answer for asked, answer in conversations if asked != prompt and answer != reply]
                )
                sides = (other, reply) if contradict and number % 2 else (reply, other)
                row = {"prompt": prompt, "chosen": sides[0], "rejected": sides[1], "language": language}
                file.write(json.dumps(row) + "\n")
    return path


def row_of(cell: Cell, done: Sweep) -> dict[str, object]:
    """The figures of a run, or why there is none."""
    key: dict[str, object] = {**cell.place, "seed": cell.seed}
    if cell.name in done.failed:
        return {**key, "refused": done.failed[cell.name]}
    found = summarise(view_of(done.path / "cells" / cell.name))
    return {**key, **{name: found[name] for name in FIGURES}}


if __name__ == "__main__":
    main()

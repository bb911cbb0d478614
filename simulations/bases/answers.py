"""Questions with checked answers, a kind for each of eight clients: how many are answered exactly, before and after.

    python simulations/bases/answers.py qwen-0.5b    # adds a row to results-answers.jsonl
    python simulations/bases/answers.py qwen-1.5b --rounds 2
    python simulations/bases/answers.py --table      # the README's table

The prompt is the question, as the base's chat template shows it; the answer must be the completion and nothing else.
Base, federated and personalized adapters answer 50 unseen questions of each kind; so does one of as many steps on
all records in one place. Base and federated adapter are asked without the template, too.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from inputs import KINDS, base, questions

import plait

RESULTS = Path(__file__).parent / "results-answers.jsonl"
STEPS = 8
MOST_TOKENS = 24
WHO = ("base", "federated", "personalized", "pooled", "base without template", "federated without template")


def answered(name: str, rounds: int, seed: int) -> dict[str, Any]:
    """Exact answers of each kind by each adapter."""
    data, test = questions()
    same = {"base": base(name), "data": data, "rounds": rounds, "seed": seed, "samples": 0, "quiet": True}
    right: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        federated = plait.simulate(
            **same, partition="natural:client", clients=len(KINDS), local_steps=STEPS, out=Path(folder) / "federated"
        )
        pooled = plait.simulate(
            **same, partition="iid", clients=1, local_steps=STEPS * len(KINDS), out=Path(folder) / "pooled"
        )
        for kind in KINDS:
            asked = [each for each in test if each["client"] == kind]
            texts = [each["prompt"] for each in asked]
            chats = [[{"role": "user", "content": text}] for text in texts]
            written = (
                federated.generate(chats, adapted=False, max_tokens=MOST_TOKENS),
                federated.generate(chats, max_tokens=MOST_TOKENS),
                federated.generate(chats, client=kind, max_tokens=MOST_TOKENS),
                pooled.generate(chats, max_tokens=MOST_TOKENS),
                federated.generate(texts, adapted=False, max_tokens=MOST_TOKENS),
                federated.generate(texts, max_tokens=MOST_TOKENS),
            )
            right[kind] = {
                who: sum(answer.strip() == each["completion"] for answer, each in zip(answers, asked, strict=True))
                for who, answers in zip(WHO, written, strict=True)
            }
        figures = {key: federated.summary[key] for key in ("base_held_out_loss", "final_held_out_loss", "wall_s")}
    asked = len(test) // len(KINDS)
    return {"base": name, "rounds": rounds, "seed": seed, "asked_of_each": asked, "right": right, **figures}


def table() -> str:
    """The rows as Markdown."""
    lines = [f"| Base | Rounds | Held-out loss | {' | '.join(WHO)} |", "|---" * (len(WHO) + 3) + "|"]
    for row in map(json.loads, RESULTS.read_text().splitlines()):
        shares = (_share(row, who) for who in WHO)
        losses = f"{row['base_held_out_loss']:.3f} → {row['final_held_out_loss']:.3f}"
        lines.append(f"| {row['base']} | {row['rounds']} | {losses} | {' | '.join(shares)} |")
    return "\n".join(lines)


def _share(row: dict[str, Any], who: str) -> str:
    """How many questions were answered exactly; empty where that was not measured."""
    right = [kind[who] for kind in row["right"].values() if who in kind]
    return f"{sum(right) / len(right) / row['asked_of_each']:.1%}" if right else ""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bases", nargs="*")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    for each in options.bases:
        row = answered(each, options.rounds, options.seed)
        with RESULTS.open("a") as file:
            file.write(f"{json.dumps(row)}\n")
    if options.table:
        print(table())

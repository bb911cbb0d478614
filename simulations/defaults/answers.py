"""How far a step may go where a batch counts few tokens: short answers, on which nothing else was chosen.

    python simulations/defaults/answers.py DIR --out FILE
    python simulations/defaults/answers.py DIR --out FILE --only products,0,100      # beginnings of a row's key

DIR has `languages.jsonl` (`corpora.py DIR languages`); generators' questions are made in it with `reasoning-gym`, other
generators than those of the field. `steady` is the number of counted tokens from which a step may predict a fall of a
quarter of the loss; 0 is that limit for every batch.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import plait
from plait.training import learner

sys.path.append(str(Path(__file__).resolve().parents[2]))
from simulations.field.works import generated

SETS: dict[str, tuple[tuple[str, ...], int]] = {
    "products": (
        ("products", "decimal_chain_sum", "prime_factorization", "count_bits", "fraction_simplification",
         "base_conversion"),
        100,
    ),
    "orders": (
        ("complex_arithmetic", "time_intervals", "simple_equations", "number_filtering", "sentence_reordering",
         "word_sorting", "fraction_simplification", "calendar_arithmetic"),
        200,
    ),
}  # fmt: skip
"""Generators and the seed of their questions."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    for name, steady, seed in product(("products", "orders", "languages"), (0, 64, 128, 256, 1024), (100, 101)):
        if not f"{name},{steady},{seed}".startswith(options.only):
            continue
        learner._STEADY = steady  # pyright: ignore[reportPrivateUsage]
        with tempfile.TemporaryDirectory() as work:
            data = Path(work, "data.jsonl")
            data.write_text("".join(json.dumps(row) + "\n" for row in rows_of(name, options.directory)))
            size: dict[str, Any] = {"local_steps": 4, "seq_len": 64} if name == "languages" else {"local_steps": 2}
            plait.simulate(
                str(data), base="smollm2-135m", partition="natural:client", rounds=5, max_held_out_sequences=8,
                sample_prompts=0, seed=seed, threads=1, out=Path(work, "run"), **size,
            )  # fmt: skip
            found = json.loads((Path(work, "run") / "summary.json").read_text())
        kept = {key: found[key] for key in ("base_held_out_loss", "final_held_out_loss", "steps_taken_back")}
        with options.out.open("a") as file:
            file.write(json.dumps({"set": name, "steady": steady, "seed": seed} | kept) + "\n")


def rows_of(name: str, directory: Path) -> list[dict[str, Any]]:
    """Prompts and completions with their clients; of `languages` the four with most text."""
    if name in SETS:
        generators, seed = SETS[name]
        return list(generated(directory / name, generators, 200, seed))
    rows = [json.loads(line) for line in (directory / "languages.jsonl").read_text().splitlines()]
    characters = Counter[str]()
    for row in rows:
        characters[row["language"]] += len(row["prompt"]) + len(row["completion"])
    largest = {language for language, _ in characters.most_common(4)}
    return [
        {"client": row["language"], "prompt": row["prompt"], "completion": row["completion"]}
        for row in rows
        if row["language"] in largest
    ]


if __name__ == "__main__":
    main()

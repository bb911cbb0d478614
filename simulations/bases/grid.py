"""The defaults beside a small grid of fixed learning rates, and what one bit keeps, after two rounds of four clients.

    python simulations/bases/grid.py qwen-0.5b    # adds a row per cell to results-grid.jsonl
    python simulations/bases/grid.py qwen-0.5b --rounds 6 --cells defaults "defaults in float32"
    python simulations/bases/grid.py --table      # the README's tables

Data are Emacs Lisp by package (calc, org, gnus, cedet); four steps of 4 x 128 tokens. The best cell in float32 of as
many rounds is the measure.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path
from typing import Any

from inputs import LISP_PACKAGES, base, lisp

import plait

RESULTS = Path(__file__).parent / "results-grid.jsonl"
CLIENTS = 4
RATES = (0.0003, 0.001, 0.003, 0.01)
CELLS = {
    "defaults": {},
    "defaults at 2 bits": {"bits": "2"},
    "defaults in float32": {"bits": "fp32"},
    **{f"{rate:g} in float32": {"bits": "fp32", "learning_rate": rate, "lr_schedule": "constant"} for rate in RATES},
}


def run(name: str, cell: str, seed: int, rounds: int) -> dict[str, Any]:
    """A cell's row."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.jsonl"
        kept = {f'"package": "{each}"' for each in LISP_PACKAGES[:CLIENTS]}
        lines = Path(lisp()).read_text().splitlines(keepends=True)
        data.write_text("".join(line for line in lines if any(each in line[:60] for each in kept)))
        made = plait.simulate(
            base=base(name), data=str(data), partition="natural:package", clients=CLIENTS, rounds=rounds, seed=seed,
            samples=0, quiet=True, out=Path(folder) / "run", **CELLS[cell],
        )  # fmt: skip
        losses = made.summary["held_out_loss_by_round"]
    return {"base": name, "cell": cell, "seed": seed, "losses": losses}


def table() -> str:
    """The rows as Markdown: gains, and parts of the best in float32."""
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    lines = ["| Base | Cell | Gain after each round | Part of the best |", "|---|---|---|---|"]
    for row in rows:
        alike = [each for each in rows if _kind(each) == _kind(row) and each["cell"].endswith("float32")]
        best = max((each["losses"][0] - each["losses"][-1] for each in alike), default=math.nan)
        gains = [row["losses"][0] - loss for loss in row["losses"][1:]]
        lines.append(
            f"| {row['base']} | {row['cell']} | {', '.join(f'{gain:.3f}' for gain in gains)} | {gains[-1] / best:.1%} |"
        )
    return "\n".join(lines)


def _kind(row: dict[str, Any]) -> tuple[str, int, int]:
    return row["base"], row["seed"], len(row["losses"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bases", nargs="*")
    parser.add_argument("--cells", nargs="*", default=list(CELLS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    for each in options.bases:
        for cell in options.cells:
            row = run(each, cell, options.seed, options.rounds)
            with RESULTS.open("a") as file:
                file.write(f"{json.dumps(row)}\n")
    if options.table:
        print(table())

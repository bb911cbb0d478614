"""Print results-TABLE.jsonl as the table of README.md, or the sweep of learning rates.

python simulations/methods/table.py tiny
python simulations/methods/table.py smollm2-rates
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from plait.adapters.methods import METHODS


def main() -> None:
    name = sys.argv[1]
    rows = [json.loads(line) for line in (Path(__file__).parent / f"results-{name}.jsonl").read_text().splitlines()]
    (print_rates if name.endswith("-rates") else print_rows)(rows)


def print_rates(rows: list[dict]) -> None:
    """Fall of the held-out loss by method and learning rate."""
    found: dict[str, dict[float, float]] = defaultdict(dict)
    for row in rows:
        found[row["method"]][row["learning_rate"]] = row["base_loss"] - row["held_out_loss"]
    print("| method | fall of the held-out loss at each learning rate |")
    print("|---|---|")
    for method, gains in found.items():
        print(f"| {method} | " + ", ".join(f"{rate:g}: {gain:.3f}" for rate, gain in sorted(gains.items())) + " |")


def print_rows(rows: list[dict]) -> None:
    """One row per method, means and spreads over seeds."""
    by_method: dict[str, list[dict]] = defaultdict(list)
    for row in rows:
        by_method[row["method"]].append(row)
    labelled = any(row.get("accuracy") is not None for row in rows)
    heads = ["method", "learning rate", "parameters", "up, down", "step", "peak memory", "loss before", "after"]
    heads += ["accuracy"] if labelled else []
    print("| " + " | ".join(heads) + " |")
    print("|---" * len(heads) + "|")
    for method in [name for name in METHODS if name in by_method]:
        found = by_method[method]
        if "refused" in found[0]:
            print(f"| {method} | refused: {found[0]['refused']} |" + " |" * (len(heads) - 2))
            continue
        cells = [
            method,
            f"{found[0]['learning_rate']:g}",
            f"{found[0]['parameters']:,}",
            f"{_size(_mean(found, 'uplink_bytes'))}, {_size(_mean(found, 'downlink_bytes'))}",
            f"{statistics.median(row['step_s'] for row in found):.2f} s",
            _size(max(row["peak_bytes"] for row in found)),
            f"{_mean(found, 'base_loss'):.3f}",
            _spread([row["held_out_loss"] for row in found]),
        ]
        print("| " + " | ".join(cells + ([_spread([row["accuracy"] for row in found])] if labelled else [])) + " |")


def _mean(rows: list[dict], key: str) -> float:
    return statistics.mean(row[key] for row in rows)


def _spread(values: list[float]) -> str:
    middle = statistics.mean(values)
    return f"{middle:.3f}" + (f" ±{max(abs(v - middle) for v in values):.3f}" if len(values) > 1 else "")


def _size(count: float) -> str:
    return (
        f"{count / 1e9:.2f} GB"
        if count >= 1e9
        else f"{count / 1e6:.2f} MB"
        if count >= 1e5
        else f"{count / 1e3:.1f} kB"
    )


if __name__ == "__main__":
    main()

"""Recompute the tables of the field from the committed rows.

python simulations/field/check.py [RESULTS ...]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
HEAD = (
    "Entrant", "Rate", "Mean loss", "Worst client", "Worse off", "Bytes, kB", "Wall, s", "Rounds, s", "CPU, s",
    "Peak, MiB", "Load",
)  # fmt: skip
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="*", type=Path, help="files of rows; by default all that are here")
    for path in parser.parse_args().results or sorted(HERE.glob("results-*.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        if shown := table(rows):
            print("\n".join((f"{path.stem.removeprefix('results-')}:", "", *shown, "")))


def table(rows: Sequence[Row]) -> list[str]:
    """In Markdown, best loss first; the choosing runs are not in it.

    Raises:
        ValueError: rows of different work.
    """
    rows = [row for row in rows if "setting" in row]
    if len({json.dumps(row["losses"]["base"], sort_keys=True) for row in rows}) > 1:
        raise ValueError("rows have different losses of the base, expected the same work")
    shown = [figures(row) for row in sorted(rows, key=lambda row: mean(last(row)))]
    return [f"| {' | '.join(each)} |" for each in (HEAD, ("---",) * len(HEAD), *shown)]


def last(row: Row) -> dict[str, float]:
    """Losses by client after the last round."""
    numbers = [int(name) for name in row["losses"] if name != "base"]
    return row["losses"][str(max(numbers))]


def mean(losses: dict[str, float]) -> float:
    """Over clients."""
    return sum(losses.values()) / len(losses)


def figures(row: Row) -> tuple[str, ...]:
    """A line of the table."""
    losses, base = last(row), row["losses"]["base"]
    worst = max(losses, key=lambda client: losses[client])
    worse = sum(loss > base[client] for client, loss in losses.items())
    sent = sum(each["bytes"] for each in row["bytes"])
    ends = [each["s"] for each in row["rounds"]]
    return (
        row["cell"],
        f"best, {row['rate']:g}" if row["setting"] == "best" else "default",
        f"{mean(losses):.3f}",
        f"{losses[worst]:.3f} ({worst})",
        f"{worse} of {len(losses)}",
        f"{sent / 1000:,.0f}",
        f"{row['wall_s']:.0f}",
        f"{ends[-1] - ends[0]:.1f}",
        f"{row['cpu_s']:.0f}",
        f"{row['peak_pss_mib']:,}",
        f"{row['load']:.0f}",
    )


if __name__ == "__main__":
    main()

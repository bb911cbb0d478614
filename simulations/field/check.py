"""Recompute the tables of the field from the committed rows.

python simulations/field/check.py [RESULTS ...]
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

HERE = Path(__file__).resolve().parent
HEAD = (
    "Entrant", "Rate", "Mean loss", "Worst client", "Worse off", "Bytes, kB", "Rounds, s", "CPU, s",
    "Peak, MiB", "Load",
)  # fmt: skip
STUDENT = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776}
"""95 % two-sided, by number of seeds."""
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="*", type=Path, help="files of rows; by default all that are here")
    for path in parser.parse_args().results or [*sorted(HERE.glob("results-*.jsonl")), HERE / "faults.jsonl"]:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        shown = faults(rows) if path.stem == "faults" else table(rows)
        if shown:
            print("\n".join((f"{path.stem.removeprefix('results-')}:", "", *shown, "")))


def table(rows: Sequence[Row]) -> list[str]:
    """In Markdown, best loss first, means over seeds with 95 % intervals; the choosing runs are not in it.

    Raises:
        ValueError: rows of different work.
    """
    cells: dict[tuple[str, str, float | None], list[Row]] = {}
    for row in rows:
        if "setting" in row:
            cells.setdefault((row["cell"], row["setting"], row["rate"]), []).append(row)
    bases: dict[object, dict[str, float]] = {}
    for row in (row for same in cells.values() for row in same):
        base = bases.setdefault(row.get("seed"), row["losses"]["base"])
        if base.keys() != row["losses"]["base"].keys() or any(
            abs(loss - base[client]) > 1e-4 for client, loss in row["losses"]["base"].items()
        ):
            raise ValueError("rows have different losses of the base, expected the same work")
    shown = [figures(same) for same in sorted(cells.values(), key=lambda same: fmean(map(loss_of, same)))]
    return markdown(HEAD, shown) if shown else []


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table."""
    return [f"| {' | '.join(each)} |" for each in (head, ("---",) * len(head), *rows)]


def one_of_each(rows: Sequence[Row]) -> list[Row]:
    """The first seed's row of every federation that ends below the base, best loss first."""
    first = [row for row in rows if "setting" in row and row["bytes"] and row["seed"] == rows[0]["seed"]]
    return sorted((row for row in first if loss_of(row) < fmean(row["losses"]["base"].values())), key=loss_of)


def mean_by_round(row: Row) -> dict[int, float]:
    """Mean loss over clients by round, from the base's as round 0."""
    return {0 if name == "base" else int(name): fmean(by.values()) for name, by in row["losses"].items()}


def last(row: Row) -> dict[str, float]:
    """Losses by client after the last round; of a ruler without a shared adapter, each client's own."""
    numbers = [int(name) for name in row["losses"] if name != "base"]
    return row["losses"][str(max(numbers))] if numbers else row["own"]


def loss_of(row: Row) -> float:
    """Mean over clients after the last round."""
    return fmean(last(row).values())


def interval(values: Sequence[float]) -> str:
    """A mean of seeds and, of several, its 95 % interval."""
    half = STUDENT[len(values)] * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return f"{fmean(values):.3f}" + (f" ± {half:.3f}" if half else "")


def figures(same: Sequence[Row]) -> tuple[str, ...]:
    """A line of the table, from the rows of all seeds."""
    first, losses, base = same[0], last(same[0]), same[0]["losses"]["base"]
    worst = max(losses, key=lambda client: losses[client])
    worse = sum(loss > base[client] for client, loss in losses.items())

    def mean(of: Callable[[Row], float]) -> float:
        return fmean(map(of, same))

    return (
        first["cell"],
        f"best, {first['rate']:g}" if first["setting"] == "best" else "default",
        interval([loss_of(row) for row in same]) + right(same),
        f"{losses[worst]:.3f} ({worst})",
        f"{worse} of {len(losses)}",
        f"{mean(lambda row: sum(each['bytes'] for each in row['bytes'])) / 1000:,.0f}",
        f"{mean(lambda row: row['rounds'][-1]['s'] - row['rounds'][0]['s']):.1f}",
        f"{mean(lambda row: row['cpu_s']):.0f}",
        f"{mean(lambda row: row['peak_pss_mib']):,.0f}",
        f"{mean(lambda row: row['load']):.0f}",
    )


def right(same: Sequence[Row]) -> str:
    """Share of right answers after the last round, where there are answers."""
    if not all("right" in row for row in same):
        return ""
    return f", {fmean(fmean(list(row['right'].values())[-1].values()) for row in same):.1%} right"


def faults(rows: Sequence[Row]) -> list[str]:
    """What became of runs under faults, an entrant a column; and bytes that a proxy counted without any."""
    names = list(dict.fromkeys(row["entrant"] for row in rows))
    cells = {(row["entrant"], row["fault"]): row for row in rows}
    kinds = [kind for kind in dict.fromkeys(row["fault"] for row in rows) if kind != "none"]
    lines = [(kind, *(outcome(cells.get((name, kind)), cells.get((name, "none"))) for name in names)) for kind in kinds]
    sent = [cells[name, "none"]["network"] for name in names if (name, "none") in cells]
    network = [f"{each['up'] / 1000:,.0f} / {each['down'] / 1000:,.0f}" if each["up"] else "none" for each in sent]
    return markdown(("", *names), [*lines, ("no fault: kB up / down over TLS", *network)])


def outcome(row: Row | None, undisturbed: Row | None) -> str:
    """A cell of the table of faults."""
    if row is None or undisturbed is None:
        return "not run"
    if row["finished"] is None:
        return "not apart from the server"
    if not row["finished"]:
        return "does not finish"
    again = "begins again: " if row["rounds"].count(0) > 1 else ""
    if row["sha256"] == undisturbed["sha256"]:
        return f"{again}same bits"
    loss = loss_of(row)
    return f"{again}finishes, loss {loss:.2f} ({loss - loss_of(undisturbed):+.3f})" if math.isfinite(loss) else "NaN"


if __name__ == "__main__":
    main()

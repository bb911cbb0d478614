"""Recompute the tables of the field from the committed rows.

python simulations/field/check.py [RESULTS ...]
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

HERE = Path(__file__).resolve().parent
HEAD = (
    "Entrant", "Rate", "Mean loss", "Worst client", "Worse off", "Bytes, kB", "Client-rounds/s", "CPU, s",
    "Peak, MiB", "Load", "To {goal:.3f}: s", "and CPU, s",
)  # fmt: skip
STUDENT = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776}
"""95 % two-sided, by number of seeds."""
ROUNDING = 0.1
"""Most by which the base's loss of one client differs in bfloat16 between processors, in nats."""
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="*", type=Path, help="files of rows; by default all that are here")
    for name, shown in tables(parser.parse_args().results or HERE.glob("*.jsonl")).items():
        print("\n".join((f"{name}:", "", *shown, "")))


def tables(paths: Iterable[Path]) -> dict[str, list[str]]:
    """Those of files of rows by name, and that of plait's aims in the short works among them."""
    every = {
        path.stem.removeprefix("results-"): [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted(paths)
    }
    made = {name: faults(rows) if name == "faults" else table(rows) for name, rows in every.items()}
    works = {
        name.removesuffix("-short"): rows for name, rows in every.items() if name.endswith("-short") and made[name]
    }
    return {name: shown for name, shown in made.items() if shown} | ({"aims": aims(works)} if works else {})


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
            abs(loss - base[client]) > ROUNDING for client, loss in row["losses"]["base"].items()
        ):
            raise ValueError("rows have different losses of the base, expected the same work")
    goal = max(map(loss_of, one_of_each(row for row in rows if is_at_its_best(row))), default=math.inf)
    shown = [figures(same, goal) for same in sorted(cells.values(), key=lambda same: fmean(map(loss_of, same)))]
    return markdown([each.format(goal=goal) for each in HEAD], shown) if shown else []


def is_at_its_best(row: Row) -> bool:
    """Whether it is of an entrant's best rate, or of plait, which finds its own."""
    return row.get("setting") == "best" or row["cell"].startswith("plait")


def reached(row: Row, goal: float) -> tuple[float, float] | None:
    """Seconds of wall and of processor (NaN where rounds have none) to the first judged round that is at the goal."""
    start, ends = row["rounds"][0], {each["round"]: each for each in row["rounds"]}
    for number, loss in mean_by_round(row).items():
        if number and loss <= goal:
            wall, cpu = (ends[number].get(key, math.nan) - start.get(key, math.nan) for key in ("s", "cpu_s"))
            return wall, cpu
    return None


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table."""
    return [f"| {' | '.join(each)} |" for each in (head, ("---",) * len(head), *rows)]


def one_of_each(rows: Iterable[Row]) -> list[Row]:
    """The first seed's row of every federation that ends below the base, best loss first."""
    found = [row for row in rows if "setting" in row and row["bytes"]]
    first = [row for row in found if row["seed"] == found[0]["seed"]]
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


def figures(same: Sequence[Row], goal: float) -> tuple[str, ...]:
    """A line of the table, from the rows of all seeds; `goal` is the loss up to which the first one's time is told."""
    first = same[0]
    times = reached(first, goal) or (math.nan, math.nan)

    def mean(of: Callable[[Row], float]) -> float:
        return fmean(map(of, same))

    return (
        first["cell"],
        f"{first['rate']:g}" if first["setting"] == "best" else "default",
        interval([loss_of(row) for row in same]) + right(same),
        interval([worst_of(row) for row in same]),
        f"{mean(worse_off):.3g}/{len(last(first))}",
        f"{mean(kilobytes):,.0f}",
        f"{mean(pace):.2f}",
        f"{mean(lambda row: row['cpu_s']):.0f}",
        f"{mean(peak):,.0f}",
        f"{mean(lambda row: row['load']):.0f}",
        *("" if math.isnan(each) else f"{each:.0f}" for each in times),
    )


def worst_of(row: Row) -> float:
    """Loss of the client that is worst off after the last round."""
    return max(last(row).values())


def worse_off(row: Row) -> int:
    """Clients to whom the base was better."""
    return sum(loss > row["losses"]["base"][client] for client, loss in last(row).items())


def kilobytes(row: Row) -> float:
    """Of all messages, both ways."""
    return sum(each["bytes"] for each in row["bytes"]) / 1000


def pace(row: Row) -> float:
    """Client-rounds a second, from the first adapter to the last."""
    first, *_, final = row["rounds"]
    done = row.get("client_rounds", final["round"] * len(row["losses"]["base"]))
    return done / (final["s"] - first["s"])


def peak(row: Row) -> float:
    """MiB of all processes."""
    return row["peak_pss_mib"]


@dataclass(frozen=True)
class Aim:
    """Something that plait is to have `times` as little of as any other entrant at its best rate, or as much.

    Attributes:
        nf4: whether it is about others with four bits; about all if None.
    """

    name: str
    of: Callable[[Row], float]
    shown: str
    times: float = 1
    is_more: bool = False
    nf4: bool | None = None

    def line(self, rows: Sequence[Row]) -> str:
        """Of plait, and of the entrant nearest to it or ahead of it, over the seeds that this entrant has."""
        best: dict[str, dict[int, float]] = {}
        for row in rows:
            if row.get("setting") == "best" and row["bytes"] and self.nf4 in (None, row["cell"].endswith("nf4")):
                best.setdefault(row["cell"], {})[row["seed"]] = self.of(row)
        own = {row["seed"]: self.of(row) for row in rows if row["cell"] == "plait"}
        pairs = [
            (fmean(own[seed] for seed in found), fmean(found.values()))
            for found in best.values()
            if found.keys() <= own.keys()
        ]
        if not pairs:
            return "not run"
        mine, other = max(pairs, key=lambda pair: pair[0] / pair[1] * (-1 if self.is_more else 1))
        met = mine >= self.times * other if self.is_more else self.times * mine <= other
        return f"{mine:{self.shown}}, {other:{self.shown}}: {'met' if met else 'missed'}"


AIMS = (
    Aim("Mean loss, no worse", loss_of, ".3f"),
    Aim("Worst client, better", worst_of, ".3f"),
    Aim("kB, 30 times fewer than float32", kilobytes, ",.0f", 30, nf4=False),
    Aim("kB, 5 times fewer than `nf4`", kilobytes, ",.0f", 5, nf4=True),
    Aim("Client-rounds/s, twice as many", pace, ".2f", 2, is_more=True),
    Aim("Peak MiB, fewer", peak, ",.0f"),
)


def aims(works: Mapping[str, Sequence[Row]]) -> list[str]:
    """The targets, by work."""
    return markdown(("", *works), [(aim.name, *map(aim.line, works.values())) for aim in AIMS])


def right(same: Sequence[Row]) -> str:
    """Share of right answers after the last round, where there are any."""
    share = fmean(fmean(list(row.get("right", {"": {"": 0.0}}).values())[-1].values()) for row in same)
    return f", {share:.1%} right" if share >= 0.005 else ""


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
        return row["said"][""]
    if not row["finished"]:
        return "does not finish"
    again = "begins again: " if row["rounds"].count(0) > 1 else ""
    if row["sha256"] == undisturbed["sha256"]:
        return f"{again}same bits"
    loss = loss_of(row)
    return f"{again}{loss:.2f} ({loss - loss_of(undisturbed):+.3f})" if math.isfinite(loss) else "NaN"


if __name__ == "__main__":
    main()

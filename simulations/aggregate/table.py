"""Print what `plait bench aggregate --json` measured as the tables of README.md.

python simulations/aggregate/table.py results-*.jsonl
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

RATE = re.compile(r"^(?P<rule>\w+), (?P<updates>[\d,]+) updates: (?P<what>rate|float32 in|the step, once all are in)$")
MEMORY = re.compile(r"^(?P<rule>\w+): memory(?P<step> with the step)?, (?P<updates>[\d,]+) updates$")


def main() -> None:
    rows = [json.loads(line) for path in sys.argv[1:] for line in Path(path).read_text().splitlines()]
    rates: dict[str, dict[str, float]] = {}
    memory: dict[str, list[str]] = {}
    for row in rows:
        if found := RATE.match(row["row"]):
            # Rounds of one update come along with measurements of memory, and say nothing of rates.
            if found["updates"] != "1":
                rates.setdefault(found["rule"], {})[found["what"]] = row["value"]
        elif found := MEMORY.match(row["row"]):
            what = "with the step" if found["step"] else f"after {found['updates']}"
            memory.setdefault(found["rule"], []).append(f"{what} {row['value']:,.0f}")
        else:
            beside = [f"{name} {value:,.0f}" for name, value in row["peers"].items()]
            beside += [f"limit {row['limit']:,.0f}"] if row["limit"] else []
            print(
                f"- {row['row']}: {row['value']:,.1f} {row['unit']}{' (' + ', '.join(beside) + ')' if beside else ''}"
            )
    print("\n| rule | updates/s | MB/s of float32 | seconds for the step |\n|---|---|---|---|")
    for rule, each in sorted(rates.items()):
        figures = (f"{each[what]:,.4g}" for what in ("rate", "float32 in", "the step, once all are in"))
        print(f"| {rule} | {' | '.join(figures)} |")
    print("\n| rule | MB |\n|---|---|")
    for rule, each in sorted(memory.items()):
        print(f"| {rule} | {', '.join(dict.fromkeys(each))} |")


if __name__ == "__main__":
    main()

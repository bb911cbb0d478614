"""Print results-TABLE.jsonl as the table of README.md: mean loss or accuracy over seeds, spread, bytes.

python simulations/rules/table.py tiny
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

TUNING_SEED = 100


def main() -> None:
    path = Path(__file__).parent / f"results-{sys.argv[1]}.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    reported = [row for row in rows if row["seed"] != TUNING_SEED]
    scenarios = list(dict.fromkeys(row["scenario"] for row in reported))
    cells: dict[tuple[str, str], list[dict]] = defaultdict(list)
    for row in reported:
        cells[row["rule"], row["scenario"]].append(row)
    print("| rule | learning rate | " + " | ".join(scenarios) + " | up, down kB | error |")
    print("|---" * (len(scenarios) + 4) + "|")
    for rule in dict.fromkeys(row["rule"] for row in reported):
        found = [row for row in reported if row["rule"] == rule]
        told = [row for row in found if "refused" not in row]
        if not told:
            print(f"| {rule} | | " + " | ".join("refused" for _ in scenarios) + " | | |")
            continue
        up, down = (statistics.mean(row[key] for row in told) / 1e3 for key in ("uplink_bytes", "downlink_bytes"))
        errors = [row["error"] for row in told if row["error"] is not None]
        error = f"{statistics.mean(errors):.1e}" if errors else ""
        texts = " | ".join(cell(cells[rule, scenario]) for scenario in scenarios)
        print(f"| {rule} | {found[0]['learning_rate']:g} | {texts} | {up:.0f}, {down:.0f} | {error} |")


def cell(rows: list[dict]) -> str:
    """Gain over the base in nats (or accuracy), its spread, and the number of seeds unless it is three."""
    if not rows:
        return ""
    if any("refused" in row for row in rows):
        return "refused"
    if rows[0]["accuracy"] is not None:
        values = [row["accuracy"] for row in rows]
    else:
        values = [row["base_loss"] - row["held_out_loss"] for row in rows]
    middle = statistics.mean(values)
    spread = max(abs(value - middle) for value in values)
    seeds = "" if len(values) == 3 else f" ({len(values)} seed{'s' if len(values) > 1 else ''})"
    return f"{middle:.3f} ±{spread:.3f}{seeds}" if len(values) > 1 else f"{middle:.3f}{seeds}"


if __name__ == "__main__":
    main()

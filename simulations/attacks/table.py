"""The tables of README.md from results.jsonl: python simulations/attacks/table.py.

Accuracy on stories that no client has, mean over the seeds that are there; for the backdoor also how many of the marked
stories go where the attacker wants them.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

ATTACKS = ("sign-flip", "noise", "alie", "gauge", "label-flip", "backdoor", "boosted backdoor")
LIARS = (2, 4, 6)


def main() -> None:
    """Print them."""
    lines = [json.loads(line) for line in Path(__file__).with_name("results.jsonl").read_text().splitlines()]
    cells: dict[tuple[str, str, int], list[dict[str, object]]] = defaultdict(list)
    for line in lines:
        cells[line["defence"], line["attack"], line["liars"]].append(line)
    defences = list(dict.fromkeys(line["defence"] for line in lines))
    print(f"| Accuracy, % | none | {' | '.join(ATTACKS)} |")
    print(f"|{'---|' * (2 + len(ATTACKS))}")
    for defence in defences:
        row = [_percent(cells[defence, "none", 0])]
        row += [" / ".join(_percent(cells[defence, attack, liars]) for liars in LIARS) for attack in ATTACKS]
        print(f"| {defence} | {' | '.join(row)} |")
    print("\n| Backdoor reached, % | none | backdoor | boosted backdoor |\n|---|---|---|---|")
    for defence in defences:
        row = [_percent(cells[defence, "none", 0], "backdoor")]
        for attack in ATTACKS[-2:]:
            row.append(" / ".join(_percent(cells[defence, attack, liars], "backdoor") for liars in LIARS))
        print(f"| {defence} | {' | '.join(row)} |")
    bounded = [line for line in lines if line["defence"] != "fedavg, no bound" and "liars_refused" in line]
    honest = sum(line["honest_refused"] for line in bounded)
    print(f"\n{len(lines)} runs, seeds {sorted({line['seed'] for line in lines})}; {honest} honest updates refused.")
    for attack in ATTACKS:
        of_attack = [line for line in bounded if line["attack"] == attack and line["defence"] != "fedavg, clip"]
        refused, sent = sum(line["liars_refused"] for line in of_attack), sum(10 * line["liars"] for line in of_attack)
        print(f"{attack}: the norm bound refused {refused} of {sent} updates")


def _percent(found: list[dict[str, object]], what: str = "accuracy") -> str:
    values = [float(line[what]) for line in found if line.get(what) is not None]
    return (
        f"{100 * sum(values) / len(values):.0f}"
        if values and len(values) == len(found)
        else "failed"
        if found
        else "not run"
    )


if __name__ == "__main__":
    main()

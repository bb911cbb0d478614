"""Draw loss against bytes and against time, an entrant a line.

    python simulations/field/plot.py results-quick.jsonl

Writes NAME.svg beside the rows. A round's bytes are an even part of the whole: messages of all rounds have one size.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib as mpl
from check import mean_by_round, one_of_each

from plait.report.theme import LIGHT, new_axes

mpl.use("svg")


def main(path: Path) -> None:
    """Draw the rows of a file; seeds of a cell as their first."""
    rows = one_of_each([json.loads(line) for line in path.read_text().splitlines()])
    figure, axes = new_axes(LIGHT, height_inches=4.6, title="Held-out loss by bytes sent and by time", columns=2)
    for number, row in enumerate(rows):
        by_round = mean_by_round(row)
        sent = sum(each["bytes"] for each in row["bytes"])
        ends = {each["round"]: each["s"] for each in row["rounds"]}
        colour = LIGHT.series[number % len(LIGHT.series)]
        label = f"{row['cell']}, {row['setting']}"
        style = {"color": colour, "marker": "o", "markersize": 3, "linewidth": 2.4 if row["cell"] == "plait" else 1.3}
        axes[0].plot([sent * n / max(by_round) / 1e6 for n in by_round if n], list(by_round.values())[1:], **style)
        axes[1].plot([ends[n] for n in by_round], list(by_round.values()), label=label, **style)
    axes[0].set(xscale="log", xlabel="MB sent, both ways", ylabel="mean held-out loss, nats")
    axes[1].set_xlabel("seconds since the start")
    for each in axes:
        each.grid(color=LIGHT.faint, linewidth=0.8)
    figure.legend(loc="outside lower left", ncols=3, frameon=False, labelcolor=LIGHT.ink, fontsize=8)
    figure.savefig(path.with_name(f"{path.stem.removeprefix('results-')}.svg"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

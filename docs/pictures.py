"""Make the README's picture from a committed experiment, for light and for dark pages.

    python docs/pictures.py      # writes docs/images/loss-by-bytes-light.svg and -dark.svg

Held-out loss against what a client has sent, mean over the seven judging texts of `simulations/defaults`, ten rounds.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("svg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "simulations/defaults/results-judging-ten.jsonl"
CLIENTS = 4
NAMED = {"defaults, wire fp32": "raw adapter, float32", "defaults, wire 1": "plait, 1 bit"}
SCHEMES = {
    "light": {"ink": "#1f2328", "grid": "#d1d9e0", "lines": ("#8a929b", "#0969da")},
    "dark": {"ink": "#e6edf3", "grid": "#3d444d", "lines": ("#9198a1", "#58a6ff")},
}


def series() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Megabytes that a client has sent after each round, and the loss then, by the name of the line."""
    sent, losses = defaultdict(list), defaultdict(list)
    for row in map(json.loads, RESULTS.read_text(encoding="utf-8").splitlines()):
        if (name := NAMED.get(row["cell"])) and row["seed"] == 0:
            sent[name].append(row["uplink_bytes"] / CLIENTS / (len(row["losses"]) - 1) / 1e6)
            losses[name].append(row["losses"])
    return {
        name: (np.mean(sent[name]) * np.arange(1, len(losses[name][0])), np.mean(losses[name], axis=0)[1:])
        for name in NAMED.values()
    }


def draw(path: Path, scheme: str) -> None:
    """One picture."""
    colours = SCHEMES[scheme]
    mpl.rcParams.update({"svg.hashsalt": "plait", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 11})
    figure, axes = plt.subplots(figsize=(7.2, 3.0))
    for (name, (sent, losses)), colour in zip(series().items(), colours["lines"], strict=True):
        axes.plot(sent, losses, "o-", color=colour, markersize=4, linewidth=2)
        axes.annotate(name, (sent[0], losses[0]), (8, 4), textcoords="offset points", color=colour, weight="bold")
    axes.set_xscale("log")
    axes.set_xticks([0.3, 1, 3, 10, 30, 100], ["0.3", "1", "3", "10", "30", "100"])
    axes.minorticks_off()
    axes.set_xlabel("megabytes that a client has sent", color=colours["ink"])
    axes.set_ylabel("held-out loss", color=colours["ink"])
    axes.tick_params(colors=colours["ink"], length=0)
    axes.grid(color=colours["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
    figure.savefig(path, transparent=True, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    for scheme in SCHEMES:
        draw(ROOT / f"docs/images/loss-by-bytes-{scheme}.svg", scheme)

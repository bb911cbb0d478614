"""Draw results-*.json as claims.png: python simulations/claims/plot.py."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

mpl.use("agg")

HERE = Path(__file__).parent
COLOURS = {"lora": "#0b6a8f", "full": "#c1633a"}
NAMES = {"lora": "LoRA", "full": "full fine-tuning"}

Row = Mapping[str, Any]


def main() -> None:
    figure = Figure(figsize=(11, 7.2), layout="constrained")
    axes = figure.subplots(2, 2)
    for axis, draw in zip(axes.flat, (draw_rates, draw_ranks, draw_forgetting, draw_spectrum), strict=True):
        draw(axis)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#dddddd", linewidth=0.8)
        axis.set_axisbelow(True)
    figure.savefig(HERE / "claims.png", dpi=110)


def draw_rates(axis: Axes) -> None:
    """Loss by learning rate; a ring around each method's best."""
    for method in NAMES:
        means = means_by((row for row in read("rates") if row["method"] == method), "rate", "loss")
        axis.plot(list(means), list(means.values()), color=COLOURS[method], marker="o", markersize=4)
        best, down = min(means, key=means.__getitem__), 14 if method == "lora" else -34
        axis.plot([best], [means[best]], "o", markersize=11, fillstyle="none", color=COLOURS[method])
        axis.annotate(
            f"{NAMES[method]}\nbest at {best:g}", (best, means[best]), (0, down), textcoords="offset points",
            color=COLOURS[method], ha="center", fontsize=9,
        )  # fmt: skip
    axis.set(xscale="log", title="Learning rate, 100 steps", xlabel="learning rate", ylabel="held-out loss (nats)")
    low, high = axis.get_ylim()
    axis.set_ylim(low - 0.25 * (high - low), high)


def draw_ranks(axis: Axes) -> None:
    """Loss by rank, one line per number of steps."""
    rows = read("ranks")
    for steps in sorted({row["steps"] for row in rows} - {0}):
        means = means_by((row for row in rows if row["steps"] == steps), "rank", "loss")
        axis.plot(list(means), list(means.values()), color=COLOURS["lora"], marker="o", markersize=4)
        axis.annotate(
            f"{steps} steps", (max(means), means[max(means)]), (6, 0), textcoords="offset points",
            color=COLOURS["lora"], va="center", fontsize=9,
        )  # fmt: skip
    axis.set_xscale("log", base=2)
    axis.set_xticks([1, 2, 4, 8, 16, 32, 64], labels=["1", "2", "4", "8", "16", "32", "64"])
    axis.set(title="Rank of LoRA", xlabel="rank", ylabel="held-out loss (nats)", xlim=(0.9, 120))


def draw_forgetting(axis: Axes) -> None:
    """Loss on the other text against the gain on the learned text, in the course of training."""
    for method in NAMES:
        rows = [row for row in read("forgetting") if row["method"] == method]
        learned, elsewhere = means_by(rows, "steps", "learned"), means_by(rows, "steps", "elsewhere")
        gained = [learned[0] - learned[steps] for steps in learned]
        lost = [elsewhere[steps] - elsewhere[0] for steps in learned]
        axis.plot(gained, lost, color=COLOURS[method], marker="o", markersize=4)
        axis.annotate(
            NAMES[method], (gained[-1], lost[-1]), (-6, 6), textcoords="offset points", color=COLOURS[method],
            ha="right", fontsize=9,
        )  # fmt: skip
    axis.set(
        title="Forgetting, 200 steps", xlabel="loss gained on the text that is learned (nats)",
        ylabel="loss added on other text (nats)",
    )  # fmt: skip


def draw_spectrum(axis: Axes) -> None:
    """Share of the learned change that the first singular values hold."""
    rows = read("spectrum")
    for method, rank, style in (("lora", 8, "-"), ("lora", 64, "--"), ("full", 8, "-")):
        found = [row["shares"] for row in rows if (row["method"], row["rank"]) == (method, rank)]
        shares = [statistics.mean(values) for values in zip(*found, strict=True)]
        axis.plot(range(1, 65), shares, style, color=COLOURS[method])
        label = f"LoRA, rank {rank}" if method == "lora" else NAMES[method]
        at, down = {("lora", 8): (4, -40), ("lora", 64): (14, -14), ("full", 8): (24, -12)}[method, rank]
        axis.annotate(
            label, (at, shares[at - 1]), (8, down), textcoords="offset points", color=COLOURS[method], fontsize=9
        )
    axis.set(
        title="Singular values of what was learned", xlabel="first k", ylabel="share of the squared norm",
        ylim=(0, 1.02),
    )  # fmt: skip


def means_by(rows: Iterable[Row], key: str, value: str) -> dict[Any, float]:
    """Means over seeds, in the key's order."""
    found: dict[Any, list[float]] = defaultdict(list)
    for row in rows:
        found[row[key]].append(row[value])
    return {each: statistics.mean(found[each]) for each in sorted(found)}


def read(part: str) -> list[Row]:
    """Rows of one part."""
    return json.loads((HERE / f"results-{part}.json").read_text())


if __name__ == "__main__":
    main()

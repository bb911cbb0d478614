"""The plot of aggregation: error of each round's result, and movement of each client."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from plait.report.theme import Theme, bands, new_axes, say_nothing_yet, written
from plait.report.wording import percent_text, plural
from plait.rounds.events import Diagnostics
from plait.rounds.run_view import RunView


def aggregation(view: RunView, theme: Theme) -> Figure:
    """On the left the errors of the result and of separate averaging, on the right every client's movement."""
    found = [(each.round, each.diagnostics) for each in view.rounds.values() if each.diagnostics]
    figure, panels = new_axes(theme, height_inches=3.4, title="Aggregation", columns=2 if found else 1)
    if not found:
        say_nothing_yet(panels[0], theme, "No round has been aggregated yet.")
        return figure
    numbers = [number for number, _ in found]
    _errors(panels[0], theme, numbers, [each for _, each in found])
    _movements(panels[1], theme, numbers, [each for _, each in found], peer=view.peer)
    for panel in panels:
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        panel.set_xlabel("round")
        panel.grid(axis="y", color=theme.faint, linewidth=0.8)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=1 if theme.is_narrow else 2,
        frameon=False, labelcolor=theme.ink, fontsize=8.5,
    )  # fmt: skip
    return figure


def _errors(panel: Axes, theme: Theme, numbers: list[int], rounds: list[Diagnostics]) -> None:
    last = rounds[-1]
    marker = "o" if len(numbers) <= 25 else ""
    covariance = [each.covariance for each in rounds]
    label = f"of averaging {'both sides' if last.inputs else 'B and A'} separately: {percent_text(last.covariance)}"
    panel.plot(numbers, covariance, color=theme.muted, linewidth=1.6, linestyle=(0, (4, 2)), label=label, zorder=3)
    error = [each.error for each in rounds]
    label = f"of the round's result: {percent_text(last.error)}"
    panel.plot(numbers, error, color=theme.accent, linewidth=2.6, marker=marker, label=label, zorder=2)
    panel.set_ylim(0, 1.15 * max(*covariance, *error, 1e-6))
    panel.yaxis.set_major_formatter(written(lambda y: f"{100 * y:.3g} %"))
    panel.set_ylabel("error, fraction of the exact mean")


def _movements(panel: Axes, theme: Theme, numbers: list[int], rounds: list[Diagnostics], *, peer: str) -> None:
    names = sorted({name for each in rounds for name in each.drift})
    if len(names) > len(theme.series):
        bands(
            panel,
            theme,
            {number: [*each.drift.values()] for number, each in zip(numbers, rounds, strict=True) if each.drift},
        )
    else:
        for index, name in enumerate(names):
            own = [
                (number, each.drift[name]) for number, each in zip(numbers, rounds, strict=True) if name in each.drift
            ]
            marker = "o" if len(own) == 1 else ""
            panel.plot(*zip(*own, strict=True), color=theme.series[index], linewidth=1.2, alpha=0.85, marker=marker,
                       markersize=3)  # fmt: skip
    panel.set_ylim(bottom=0)
    panel.set_ylabel(f"movement of each of {plural(len(names), peer)}")

"""Plots of a comparison: a figure of the runs over another, and loss against bytes with the runs that nothing beats.

A line is a run, a colour a group. Importing this loads matplotlib.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from plait.errors import ConfigError, did_you_mean
from plait.features.studies.comparison import Comparison
from plait.features.studies.runs import Group, StudiedRun
from plait.report.theme import Plot, Theme, new_axes, plain_text, say_nothing_yet, short_name, written
from plait.report.wording import percent_text, round_bytes_text
from plait.rounds.events import Evaluated

_MOST_NAMED = 10
_LABEL_LIMIT = 40
_Y: Mapping[str, Callable[[Evaluated], float | None]] = {
    "loss": lambda evaluation: evaluation.loss,
    "change": lambda evaluation: evaluation.change if evaluation.round else 0.0,
    "accuracy": lambda evaluation: evaluation.accuracy,
}
_X = ("bytes", "round")


def plot(comparison: Comparison, y: str, x: str, theme: Theme) -> Plot:
    """A line per run.

    Args:
        y: ``loss``, ``change`` or ``accuracy``.
        x: ``bytes`` or ``round``.

    Raises:
        ConfigError: there is no such figure.
    """
    for given, known, what in ((y, tuple(_Y), "y"), (x, _X, "x")):
        if given not in known:
            raise ConfigError(
                f"{what} of a plot is '{given}', expected one of {', '.join(known)}{did_you_mean(given, known)}"
            )
    with plain_text():
        return _plot(comparison, y, x, theme)


def _plot(comparison: Comparison, y: str, x: str, theme: Theme) -> Plot:
    over = "bytes sent" if x == "bytes" else "round"
    figure, (axes,) = new_axes(theme, height_inches=4.4, title=f"{_title(y)} by {over}")
    points = {run: _points(run, y, x) for run in comparison.runs}
    if not any(points.values()):
        say_nothing_yet(axes, theme, "Nothing has been evaluated yet.")
        return figure
    colours = _colours(comparison, theme)
    for group in comparison.groups:
        label, colour = _label(group, colours), colours.get(group)
        for run in group.runs:
            if not points[run]:
                continue
            axes.plot(
                *zip(*points[run], strict=True), color=colour or theme.faint, linewidth=1.6, label=label,
                linestyle="-" if run.view.finished else (0, (3, 2)), marker="o" if len(points[run]) <= 25 else "",
                markersize=3.5, zorder=3 if colour else 2,
            )  # fmt: skip
            label = None
    _style(axes, theme, y, x)
    _legend(figure, theme)
    return figure


def pareto(comparison: Comparison, theme: Theme) -> Plot:
    """Final loss against all bytes, one point per group; a line through those that nothing beats in both."""
    figure, (axes,) = new_axes(theme, height_inches=4.0, title="Final loss against bytes sent")
    points = {
        group: (figures.bytes, figures.loss, figures.loss_margin or 0.0)
        for group in comparison.groups
        if (figures := comparison.figures_of(group)).loss is not None
    }
    if not points:
        say_nothing_yet(axes, theme, "Nothing has been evaluated yet.")
        return figure
    unbeaten = [group for group in comparison.unbeaten if group in points]
    for task in {str(group.runs[0].task): group.runs[0].task for group in unbeaten}.values():
        front = sorted(points[group][:2] for group in unbeaten if group.runs[0].task == task)
        axes.plot(*zip(*front, strict=True), color=theme.muted, linewidth=1.2, linestyle=(0, (4, 2)), zorder=2)
    colours = _colours(comparison, theme)
    for group, (sent, loss, margin) in points.items():
        colour = colours.get(group)
        axes.errorbar(
            [sent], [loss], yerr=[margin], fmt="o" if group.is_finished else "s", color=colour or theme.faint,
            elinewidth=1.0, capsize=2.5, markersize=8 if group in unbeaten else 5, zorder=4 if colour else 3,
            label=_label(group, colours),
        )  # fmt: skip
    _style(axes, theme, "loss", "bytes")
    axes.set_xlabel(f"{axes.get_xlabel()}{' ' if theme.is_narrow else '  '}(large, dashed line: Pareto front)")
    _legend(figure, theme)
    return figure


def _points(run: StudiedRun, y: str, x: str) -> list[tuple[float, float]]:
    pairs = [
        (float(number if x == "round" else run.view.sent_bytes_before[number]), _Y[y](evaluation))
        for number, evaluation in sorted(run.view.evaluations.items())
        # Before round 1 next to nothing has been sent, which a logarithmic axis would draw far away.
        if number or x == "round"
    ]
    return [(at, value) for at, value in pairs if value is not None]


def _colours(comparison: Comparison, theme: Theme) -> dict[Group, str]:
    """The colours of the groups that are named: all of them, or of many only those that nothing beats."""
    few = len(comparison.groups) <= _MOST_NAMED
    named = comparison.groups if few else comparison.unbeaten[:_MOST_NAMED]
    return dict(zip(named, theme.series, strict=False))


def _label(group: Group, colours: Mapping[Group, str]) -> str | None:
    return short_name(group.label, limit=_LABEL_LIMIT) if group in colours else None


def _style(axes: Axes, theme: Theme, y: str, x: str) -> None:
    if x == "bytes":
        low, high = axes.get_xlim()
        if high > 4 * max(low, 1.0):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=6 if theme.is_narrow else 10))
            axes.xaxis.set_minor_locator(NullLocator())
        else:
            axes.xaxis.set_major_locator(MaxNLocator(nbins=4 if theme.is_narrow else 8))
        axes.xaxis.set_major_formatter(written(round_bytes_text))
        axes.set_xlabel("bytes sent, both directions")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6 if theme.is_narrow else 10))
        axes.set_xlabel("round")
    if y == "accuracy":
        axes.yaxis.set_major_formatter(written(percent_text))
    axes.set_ylabel(f"{_title(y).lower()}{'' if y == 'accuracy' else ' (nats)'}")
    axes.grid(color=theme.faint, linewidth=0.8)


def _legend(figure: Plot, theme: Theme) -> None:
    figure.legend(
        loc="outside lower left", ncols=1 if theme.is_narrow else 3, frameon=False, labelcolor=theme.ink, fontsize=8.5
    )


def _title(y: str) -> str:
    return {"loss": "Held-out loss", "change": "Change of the held-out loss", "accuracy": "Held-out accuracy"}[y]

"""The section of the report, its plot, and the figure in the summary."""

from __future__ import annotations

from matplotlib.figure import Figure

from plait.report.table import Table
from plait.report.theme import Theme, new_axes
from plait.rounds.run_view import RunView
from smallest.fold import LeftOutAsLarge


def left_out_table(view: RunView) -> Table:
    """Who was left out in each round; a round that was recorded twice is its last record."""
    rows = tuple((str(number), ", ".join(each.clients)) for number, each in sorted(_by_round(view).items()))
    return Table(title="Left out as large", headings=("round", "clients"), rows=rows, text_columns=(0, 1))


def left_out_plot(view: RunView, theme: Theme) -> Figure:
    """How many were left out in each round."""
    figure, (axes,) = new_axes(theme, height_inches=2.0, title="Left out")
    axes.bar(*zip(*((number, len(each.clients)) for number, each in _by_round(view).items()), strict=True))
    return figure


def figures_of(view: RunView) -> dict[str, int]:
    """How many updates were left out in all."""
    return {"left_out": sum(len(each.clients) for each in _by_round(view).values())}


def _by_round(view: RunView) -> dict[int, LeftOutAsLarge]:
    told = view.of_features.get("left_out_as_large", ())
    return {each.round: each for each in told if isinstance(each, LeftOutAsLarge)}

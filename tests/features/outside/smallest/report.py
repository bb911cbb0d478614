"""The section of the report."""

from __future__ import annotations

from plait.report.table import Table
from plait.rounds.run_view import RunView
from smallest.fold import LeftOutAsLarge


def left_out_table(view: RunView) -> Table:
    """Who was left out in each round; a round that was recorded twice is its last record."""
    by_round = {
        each.round: each for each in view.of_features.get("left_out_as_large", ()) if isinstance(each, LeftOutAsLarge)
    }
    rows = tuple((str(number), ", ".join(each.clients)) for number, each in sorted(by_round.items()))
    return Table(title="Left out as large", headings=("round", "clients"), rows=rows, text_columns=(0, 1))

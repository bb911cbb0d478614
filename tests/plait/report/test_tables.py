from __future__ import annotations

import math

from plait.report.clients import loss_by_client_table
from plait.report.tables import (
    loss_by_round_table,
)
from tests.plait.conftest import view_of

MINUS = "\N{MINUS SIGN}"


def test_losses_by_round_stand_beside_base_and_references(small_run) -> None:
    table = loss_by_round_table(view_of(small_run))
    assert table.headings == ("round", "loss", "change", "perplexity", "training loss", "central")
    assert table.rows == (
        ("base", "4.000", "", f"{math.exp(4):.1f}", "", "4.000"),
        ("1", "3.500", f"{MINUS}0.500", f"{math.exp(3.5):.1f}", "3.000", "3.400"),
        ("2", "3.000", f"{MINUS}1.000", f"{math.exp(3):.1f}", "3.000", "2.900"),
    )


def test_losses_and_changes_say_how_sure_they_are(run_with_margins) -> None:
    view = view_of(run_with_margins)
    table = loss_by_round_table(view)
    assert [row[1:3] for row in table.rows] == [
        ("4.000 ± 0.500", ""),
        ("3.500 ± 0.500", f"{MINUS}0.500 ± 0.125"),
        ("3.000 ± 0.500", f"{MINUS}1.000 ± 0.125"),
    ]
    assert table.note.startswith("Measured on 2 sequences per client, held out from training")
    assert loss_by_client_table(view).rows[0][1:4] == ("3.000", "2.500", f"{MINUS}1.000 ± 0.125")

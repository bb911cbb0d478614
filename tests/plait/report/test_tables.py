"""The tables of a run, and the verdict on attacks."""

import math

import pytest

from plait.ledger.events import MembershipAttack
from plait.report.clients import fairness, loss_by_client_table
from plait.report.tables import (
    loss_by_round_table,
    verdict,
)
from tests.plait.conftest import view_of

MINUS = "\N{MINUS SIGN}"


def test_losses_by_round_stand_beside_base_and_references(small_run):
    table = loss_by_round_table(view_of(small_run))
    assert table.headings == ("round", "loss", "change", "perplexity", "training loss", "central")
    assert table.rows == (
        ("base", "4.000", "", f"{math.exp(4):.1f}", "", "4.000"),
        ("1", "3.500", f"{MINUS}0.500", f"{math.exp(3.5):.1f}", "3.000", "3.400"),
        ("2", "3.000", f"{MINUS}1.000", f"{math.exp(3):.1f}", "3.000", "2.900"),
    )


def test_losses_and_changes_say_how_sure_they_are(run_with_margins):
    view = view_of(run_with_margins)
    table = loss_by_round_table(view)
    assert [row[1:3] for row in table.rows] == [
        ("4.000 ± 0.500", ""),
        ("3.500 ± 0.500", f"{MINUS}0.500 ± 0.125"),
        ("3.000 ± 0.500", f"{MINUS}1.000 ± 0.125"),
    ]
    assert table.note.startswith("Measured on 2 sequences per client, held out from training")
    assert loss_by_client_table(view).rows[0][1:4] == ("3.000", "2.500", f"{MINUS}1.000 ± 0.125")


def test_the_worst_the_spread_and_who_is_worse_off_follow_by_hand():
    found = fairness({"ann": 1.0, "bob": 4.0, "eve": 1.0}, {"ann": 2.0, "bob": 3.5, "eve": 1.25})
    assert found.mean_loss == 2.0
    # Deviations -1, 2, -1: the root of their mean square.
    assert found.spread == pytest.approx(2**0.5)
    assert (found.worst_client, found.worst_loss) == ("bob", 4.0)
    assert (found.least_gaining_client, found.least_gain) == ("bob", -0.5)
    assert found.worse_off == 1


@pytest.mark.parametrize(
    ("auc", "control", "leaks"), [(0.8, 0.5, True), (0.55, 0.5, False), (0.7, 0.75, False), (0.2, 0.1, False)]
)
def test_an_adapter_leaks_where_an_attack_on_it_is_better_than_chance_and_than_the_base(auc, control, leaks):
    attacks = [
        MembershipAttack(name="loss, against the base's", auc=auc, margin=0.1, tpr=0.25),
        MembershipAttack(name="control: loss of the base", auc=control, margin=0.1, tpr=0.01),
    ]
    said = verdict(attacks)
    assert said.startswith("This adapter gives members away" if leaks else "No leak found")
    assert ("25.0%" in said) == leaks

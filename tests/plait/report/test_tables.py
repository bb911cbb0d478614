from __future__ import annotations

import math
from itertools import pairwise

from plait.report.fairness import fairness_table
from plait.report.tables import (
    loss_by_client_table,
    loss_by_round_table,
    own_text,
)
from tests.plait.conftest import evaluated, numbered, view_of

MINUS = "\N{MINUS SIGN}"


def test_losses_by_round_stand_beside_base_and_references(small_run) -> None:
    table = loss_by_round_table(view_of(small_run))
    assert table.headings == ("round", "loss", "change", "perplexity", "training loss", "central")
    assert table.rows == (
        ("base", "4.000", "", f"{math.exp(4):.1f}", "", "4.000"),
        ("1", "3.500", f"{MINUS}0.500", f"{math.exp(3.5):.1f}", "3.000", "3.400"),
        ("2", "3.000", f"{MINUS}1.000", f"{math.exp(3):.1f}", "3.000", "2.900"),
    )


def test_a_sample_of_evaluated_clients_is_told(run_with_margins) -> None:
    def of_ann(event):
        return {**event, "by_client": {"ann": event["by_client"]["ann"]}} if event["event"] == "evaluated" else event

    table = loss_by_round_table(view_of(numbered([of_ann(event) for event in run_with_margins])))
    assert table.note.startswith("Measured on 2 sequences per client of 1 of 2 clients, held out from training")


def test_losses_by_client_stand_beside_base_and_references(small_run) -> None:
    table = loss_by_client_table(view_of(small_run))
    assert table.headings == (
        "client", "base", "federated", "change", "central", "training tokens", "held-out sequences",
    )  # fmt: skip
    assert table.rows == (
        ("ann", "3.000", "2.500", f"{MINUS}0.500", "2.400", "500", "2"),
        ("bob", "5.000", "3.500", f"{MINUS}1.500", "3.400", "1,000", "2"),
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


def test_an_accuracy_has_both_ends_of_its_interval(small_run) -> None:
    base = {**small_run[0]["base"], "task": "classification"}
    judged = {"event": "evaluated", "round": 0, "loss": 1.0, "accuracy": 15 / 16, "accuracy_interval": [0.717, 0.989]}
    table = loss_by_round_table(view_of([{**small_run[0], "base": base}, judged]))
    assert table.rows[0][3] == "93.8 % (71.7\N{EN DASH}98.9)"


def test_own_adapters_have_a_column_and_a_sentence(small_run, run_with_own) -> None:
    view = view_of(run_with_own(2.25, {"ann": 2.0, "bob": 2.5}))
    table = loss_by_client_table(view)
    assert table.headings[4] == "own"
    assert [row[4] for row in table.rows] == ["2.000", "2.500"]
    assert "plait export RUN DIR --client NAME" in table.note
    assert own_text(view) == "The personalized adapters reach 2.250 on their clients' own data."
    assert own_text(view) in loss_by_round_table(view).note
    assert "own" in [row[0] for row in fairness_table(view).rows]
    assert "own" not in loss_by_client_table(view_of(small_run)).headings
    assert own_text(view_of(small_run)) == ""


def test_of_too_many_clients_those_that_gained_least_are_shown(small_run) -> None:
    names = [f"c{index:03d}" for index in range(300)]
    # Client i gains i / 1000, so the first 250 gain least.
    losses = {name: 2.0 - index / 1000 for index, name in enumerate(names)}
    events = [small_run[0], evaluated(0, 2.0, dict.fromkeys(names, 2.0)), evaluated(1, 1.0, losses)]
    table = loss_by_client_table(view_of(events))
    assert [row[0] for row in table.rows] == names[:250]
    assert table.note.startswith("250 of 300 clients")


def test_of_too_many_rounds_an_even_choice_is_shown_with_both_ends(small_run) -> None:
    evaluations = [evaluated(number, 2.0, {}) for number in range(1001)]
    table = loss_by_round_table(view_of([small_run[0], *evaluations]))
    shown = [0 if row[0] == "base" else int(row[0]) for row in table.rows]
    assert (shown[0], shown[-1], len(shown)) == (0, 1000, 60)
    assert max(after - before for before, after in pairwise(shown)) <= 18

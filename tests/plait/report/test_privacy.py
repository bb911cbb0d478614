from __future__ import annotations

import pytest

from plait.report.estimate import CostEstimate, CostInputs, PlannedPrivacy, estimate_tables
from plait.report.html import headline
from plait.report.privacy import privacy_tables
from plait.report.status import status_tables
from plait.report.summary import summarise
from plait.report.tables import report_tables
from plait.rounds.events import Audited, MembershipAttack, PrivacySpent, PrivacyStarted, SumUnmasked
from plait.rounds.privacy_card import (
    MASKED_NOT_COVERED,
    NOT_COVERED,
    PrivacyCard,
    attack_facts,
    secure_aggregation_facts,
)
from plait.rounds.run_progress import RunProgress
from server.sessions import Sessions
from server.status import status_of
from tests.plait.conftest import run_started, view_of
from tests.plait.report.test_html import Page, page_of

STARTED = PrivacyStarted(
    unit="client", adjacency="zero-out", observer="everybody but the server", epsilon=8.0, delta=1e-5,
    noise_multiplier=1.34, update_multiplier=1.34, clip_norm=0.5, clients=100, parameters=2_440_000,
    noise_over_clip=21.0, amplification="none: on record", key_check="ab" * 32,
)  # fmt: skip


def without_privacy():
    return view_of([run_started()])


def spent(number: int, epsilon: float, charges: int) -> PrivacySpent:
    return PrivacySpent(round=number, epsilon=epsilon, delta=1e-5, charges=charges, clip_norm=0.5)


@pytest.fixture
def view():
    view = without_privacy()
    for event in (STARTED, spent(1, 3.1, 1), spent(2, 4.7, 3)):
        view.take(event)
    return view


def test_the_summary_has_unit_epsilon_delta_and_epsilon_by_round(view):
    summary = summarise(view)
    assert {key: summary[key] for key in ("dp_unit", "dp_epsilon", "dp_delta")} == {
        "dp_unit": "client", "dp_epsilon": 4.7, "dp_delta": 1e-5,
    }  # fmt: skip
    assert summary["dp_epsilon_by_round"] == [0.0, 3.1, 4.7]
    without = summarise(without_privacy())
    assert [without[key] for key in without if key.startswith("dp_")] == [None] * 5


AUDITED = Audited(
    adapter="ab", members=40, others=30, canaries=10_000, epsilon_bound=2.3, epsilon_most=4.6,
    attacks=(MembershipAttack(name="loss", auc=0.61, margin=0.04, tpr=0.025),),
)  # fmt: skip


def test_what_attacks_found_is_in_card_summary_tables_and_page(view):
    assert "Audit bound" not in dict(view.privacy.facts)
    assert "Attacks" not in page_of(view)
    view.take(AUDITED)
    assert dict(view.privacy.facts)["Audit bound"] == (
        "10,000 canary clients prove epsilon of at least 2.3 with 95 % certainty (perfect guesses would prove 4.6)"
    )
    summary = summarise(view)
    assert summary["dp_audit_bound"] == 2.3
    assert summary["membership"]["loss"] == {
        "auc": 0.61, "auc_interval": pytest.approx([0.57, 0.65]), "tpr_at_fpr_1": 0.025,
    }  # fmt: skip
    table = next(table for table in report_tables(view) if "Membership" in table.title)
    assert table.title == "Membership: 40 trained sequences against 30 held-out ones"
    assert table.rows == (("loss", "0.610 ± 0.040", "2.5%"),)
    assert "so no epsilon covers these figures" in page_of(view)
    assert attack_facts(view.audited) == (("loss", "AUC 0.610 ± 0.040, 2.5% found at 1 % false alarms"),)


def test_the_card_says_who_is_protected_from_whom_and_what_is_not_covered(view):
    facts = dict(view.privacy.facts)
    assert facts["Protected"] == "everything that one client's data changed, in all rounds together"
    assert facts["From"].startswith("everybody but the server")
    assert facts["Spent"] == "epsilon 4.7 of 8 at delta 1e-05, 3 draws of noise"
    assert [text for name, text in view.privacy.facts if name == "Not covered"] == [*NOT_COVERED]
    assert "21 times the clip norm: expect no useful adapter" in view.privacy.warning
    quiet = STARTED.model_copy(update={"noise_over_clip": 2.9})
    assert PrivacyCard(quiet).warning == ""
    assert PrivacyCard(quiet).epsilon_text == "epsilon 0 of 8 at delta 1e-05"


def test_tables_and_page_show_card_and_epsilon_and_no_losses(view):
    card, epsilon = privacy_tables(view)
    assert card.note == view.privacy.warning
    assert [row[:3] for row in epsilon.rows] == [("1", "3.1", "1"), ("2", "4.7", "3")]
    assert report_tables(view)[:2] == (card, epsilon)
    page = Page(page_of(view))
    assert all(each in page.text for each in NOT_COVERED)
    assert "epsilon 4.7 of 8 at delta 1e-05" in headline(view)
    assert "Held-out loss by client" not in page.text
    assert privacy_tables(without_privacy())[0].rows == ()


def test_status_shows_what_is_spent():
    progress = RunProgress().after(STARTED).after(spent(1, 3.1, 1))

    nobody = Sessions(max_nodes=1)
    said = status_of(progress, nobody, None)
    assert said["privacy"] == {"unit": "client", "epsilon": 3.1, "budget": 8.0, "delta": 1e-5}
    (run, *_) = status_tables(said)
    assert ("privacy", "epsilon 3.1 of 8 at delta 1e-05, by client") in run.rows
    assert status_of(RunProgress(), nobody, None)["privacy"] is None


@pytest.mark.parametrize("value", [7, [1], {"epsilon": "x", "delta": None, "unit": "\x1b[0m"}, {}])
def test_what_a_server_should_not_say_of_privacy_breaks_nothing(value):
    (run, *_) = status_tables({"privacy": value})
    assert all(cell.isprintable() for row in run.rows for cell in row)


@pytest.mark.parametrize(("ratio", "warns"), [(2.9, False), (21.0, True)])
def test_an_estimate_warns_where_the_noise_leaves_nothing_to_learn(ratio, warns):
    planned = PlannedPrivacy(8.0, 1e-5, 1.34, ratio)
    costs = CostEstimate(
        CostInputs(
            trainable_parameters=2_440_000, full_model_parameters=10**8, clients=100, clients_per_round=100, rounds=5,
            privacy=planned,
        )
    )  # fmt: skip
    *_, table = estimate_tables(costs)
    assert ("noise in a round's mean, over the clip norm", f"{ratio:.3g}") in table.rows
    assert ("expect no useful adapter" in table.note) is warns
    if warns:
        # 100 clients * 21 / 3, and 2.44 million * (3 / 21)^2.
        assert "700 clients per round" in table.note
        assert "49,795 parameters" in table.note
    assert costs.to_json()["dp_noise_over_clip"] == ratio
    assert len(estimate_tables(CostEstimate(CostInputs(
        trainable_parameters=1, full_model_parameters=1, clients=1, clients_per_round=1, rounds=1
    )))) == 2  # fmt: skip


SUM = SumUnmasked(
    round=1, purpose="train", invited=6, roster=6, shared=5, clients=5, threshold=4, neighbours=5, bits=6, unit=0.01
)


def test_a_run_under_masks_says_what_they_hide_and_what_they_do_not():
    view = without_privacy()
    view.take(SUM)
    view.take(SUM.model_copy(update={"purpose": "evaluate", "clients": 4}))
    facts = dict(secure_aggregation_facts(view.sums))
    # Two lists that four of six clients signed have two signers in common, so one of these may be dishonest.
    assert facts["From"] == "the server, and up to 1 clients together with it"
    sparse = SUM.model_copy(update={"roster": 200, "threshold": 134, "clients": 200, "neighbours": 64})
    assert "up to 20 clients" in dict(secure_aggregation_facts([sparse]))["From"]
    assert facts["Learned"] == "2 sums, none of fewer than 4 clients"
    assert "protects nobody" in facts["Simulated"]
    (table,) = (table for table in report_tables(view) if table.title == "Secure aggregation")
    assert [row[1] for row in table.rows if row[0] == "Not covered"] == list(MASKED_NOT_COVERED)
    page = page_of(view)
    assert "masks add no noise" in page
    assert "<summary>Clients</summary>" not in page
    proven = dict(secure_aggregation_facts([SUM.model_copy(update={"certified": True})]))
    assert "Simulated" not in proven
    assert "certificate" in proven["Keys"]
    assert secure_aggregation_facts(without_privacy().sums) == ()
    assert "masks add no noise" not in page_of(without_privacy())


@pytest.mark.parametrize(("ratio", "warns"), [(1.9, False), (40.0, True)])
def test_an_estimate_of_private_records_warns_likewise(ratio, warns):
    planned = PlannedPrivacy(8.0, 1e-5, 0.7, ratio, unit="record")
    costs = CostEstimate(
        CostInputs(
            trainable_parameters=2_440_000, full_model_parameters=10**8, clients=8, clients_per_round=8, rounds=5,
            privacy=planned,
        )
    )  # fmt: skip
    *_, table = estimate_tables(costs)
    assert table.title == "Differential privacy of records"
    assert ("noise in a step's mean of all clients, over the clip norm", f"{ratio:.3g}") in table.rows
    assert ("expect no useful adapter" in table.note) is warns

"""Sums of clients' figures: the mean of what they sent, without counts, and an error for impossible sums."""

import pytest

from plait.errors import PeerError
from plait.ledger.redaction import MASKED_NOT_COVERED, SumUnmasked
from plait.report.tables import report_tables
from plait.rounds.evaluation import ClientLoss
from plait.secagg.sums import EVALUATION, TRAINING, decode_figures, encode_figures, evaluation_figures, scores_of
from tests.plait.conftest import run_started, view_of
from tests.plait.report.test_html import page_of

CLIENTS = [
    ClientLoss(2.0, 100, 10, correct=7, loss_error=0.3, change=-0.5, change_error=0.1),
    ClientLoss(3.0, 300, 5, correct=1, loss_error=0.4, change=-0.1, change_error=0.2),
]


def summed(*clients, **more):
    sums = sum(encode_figures(evaluation_figures(client, None), EVALUATION) for client in clients)
    return decode_figures(sums + encode_figures(more, EVALUATION), EVALUATION)


def test_the_mean_is_over_clients_each_counted_alike():
    mean, own = scores_of(summed(*CLIENTS), clients=2)
    assert mean.loss == pytest.approx(2.5, rel=1e-8)
    assert mean.change == pytest.approx(-0.3, rel=1e-8)
    assert mean.accuracy == pytest.approx((7 / 10 + 1 / 5) / 2, rel=1e-8)
    assert own is None


def test_figures_are_the_same_whatever_the_amount_of_data():
    one, other = ClientLoss(2.0, 100, 10, loss_error=0.3), ClientLoss(2.0, 7_000, 700, loss_error=0.3)
    assert evaluation_figures(one, one) == evaluation_figures(other, other)
    assert set(TRAINING) == {"square"}


@pytest.mark.parametrize(
    "lie", [{"scored": 1.0}, {"known": 1.0}, {"moved": -3.0}, {"accuracy": -1.0}, {"accuracy": 2.0}]
)
def test_impossible_sums_are_refused(lie):
    with pytest.raises(PeerError, match="impossible figures"):
        scores_of(summed(*CLIENTS, **lie), clients=2)


SUM = SumUnmasked(
    round=1, purpose="train", invited=6, roster=6, shared=5, clients=5, threshold=4, neighbours=5, bits=6, unit=0.01
)


def test_a_run_under_masks_says_what_they_hide_and_what_they_do_not():
    view = view_of([run_started()])
    view.take(SUM)
    view.take(SUM.model_copy(update={"purpose": "evaluate", "clients": 4}))
    facts = dict(next(iter(view.cards.values())).facts)
    # Two lists that four of six clients signed have two signers in common, so one of these may be dishonest.
    assert facts["From"] == "the server, and up to 1 client together with it"
    sparse = SUM.model_copy(update={"roster": 300, "threshold": 200, "clients": 300})
    assert "up to 30 clients" in dict(sparse.sections["masks"].facts)["From"]
    assert facts["Learned"] == "2 sums, none of fewer than 4 clients"
    assert "protects no one" in facts["Simulated"]
    (table,) = (table for table in report_tables(view) if table.title == "Secure aggregation")
    assert [row[1] for row in table.rows if row[0] == "Not covered"] == list(MASKED_NOT_COVERED)
    page = page_of(view)
    assert "masks add no noise" in page
    assert "<summary>Clients</summary>" not in page
    proven = dict(SUM.model_copy(update={"certified": True}).sections["masks"].facts)
    assert "Simulated" not in proven
    assert "certificate" in proven["Keys"]
    assert "masks add no noise" not in page_of(view_of([run_started()]))


def test_a_server_whose_clients_keys_no_authority_vouches_for_refuses_before_it_begins(plait, tmp_path):
    asked = ("server", "--insecure", "--min-clients", 3, "--base", "tiny", "--secure-aggregation")
    ran = plait(*asked, "--out", tmp_path / "run")
    assert ran.code == 2
    assert "no authority vouches for the clients' keys here" in ran.err
    assert not (tmp_path / "run" / "ledger.jsonl").exists()

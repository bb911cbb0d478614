"""Sums of clients' figures: the mean of what they sent, and an error of one line for sums that nobody can have."""

import pytest

from plait.errors import PeerError
from plait.rounds.evaluation import ClientLoss
from plait.rounds.figures import EVALUATION, decode_figures, encode_figures, evaluation_figures, scores_of

CLIENTS = [ClientLoss(2.0, 100, 10, correct=7), ClientLoss(3.0, 300, 5, correct=1)]


def summed(*clients, **more):
    sums = sum(encode_figures(evaluation_figures(client, None), EVALUATION) for client in clients)
    return decode_figures(sums + encode_figures(more, EVALUATION), EVALUATION)


def test_the_mean_is_that_of_the_clients_figures():
    mean, own = scores_of(summed(*CLIENTS))
    assert mean.loss == pytest.approx((2.0 * 100 + 3.0 * 300) / 400, rel=1e-6)
    assert mean.accuracy == 8 / 15
    assert own is None


@pytest.mark.parametrize(
    "lie", [{"tokens": -400}, {"tokens": -500}, {"correct": -9}, {"correct": 8}, {"classified": -8}]
)
def test_sums_that_nobody_can_have_are_refused(lie):
    with pytest.raises(PeerError, match="expected what clients can have"):
        scores_of(summed(*CLIENTS, **lie))

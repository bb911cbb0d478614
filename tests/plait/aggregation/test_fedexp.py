import numpy as np
import pytest

from plait.adapters import AdapterState, norm
from plait.aggregation.fedexp import FedExp
from plait.aggregation.round import Outcome


def taken(lab, deltas, weights, **settings):
    """The step for clients with these deltas, (clients, size), beside their weighted mean."""
    context = lab.context(lab.geometry(), np.random.default_rng(0))
    weights = np.asarray(weights, float) / np.sum(weights)
    mean = AdapterState(context.master.layout, (weights[:, None] * deltas).sum(0).astype(np.float32))
    square = float((weights * np.square(deltas).sum(1)).sum())
    step, memory = FedExp(**settings).adjust(Outcome(mean, client_square=square), {}, context)
    assert memory == {}
    return step, mean


@pytest.fixture
def size(lab):
    return lab.context(lab.geometry(), np.random.default_rng(0)).master.layout.size


def test_clients_that_agree_get_the_plain_mean(lab, size):
    delta = np.random.default_rng(1).normal(size=size)
    step, mean = taken(lab, np.stack([delta, delta]), [1, 3])
    np.testing.assert_allclose(step.flat, mean.flat, rtol=1e-6)


def test_eight_clients_at_right_angles_are_extrapolated_as_the_equation_says(lab, size):
    step, mean = taken(lab, 0.3 * np.eye(8, size), np.ones(8))
    np.testing.assert_allclose(step.flat, 4.0 * mean.flat, rtol=1e-5)


def test_weights_count_in_both_norms(lab, size):
    deltas, weights = np.random.default_rng(2).normal(size=(5, size)), np.array([1, 2, 3, 4, 5])
    step, mean = taken(lab, deltas, weights)
    square = (weights / 15 * np.square(deltas).sum(1)).sum()
    np.testing.assert_allclose(norm(step) * norm(mean), square / 2, rtol=1e-5)


def test_the_lr_multiplies(lab, size):
    deltas = np.eye(8, size)
    step, _ = taken(lab, deltas, np.ones(8), lr=1.0)
    half, _ = taken(lab, deltas, np.ones(8), lr=0.5)
    np.testing.assert_allclose(half.flat, 0.5 * step.flat)


def test_a_round_without_movement_stays_where_it_is(lab, size):
    step, _ = taken(lab, np.zeros((2, size)), [1, 1])
    assert not step.flat.any()

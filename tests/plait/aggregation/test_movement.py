from dataclasses import replace

import numpy as np
import pytest

from plait.adapters import AdapterState
from plait.aggregation import Side, check_movement
from plait.aggregation.fedavg import FedAvg
from plait.errors import PeerError


@pytest.fixture
def update(lab):
    generator = np.random.default_rng(0)
    context = lab.context(lab.geometry(), generator)
    (one,) = lab.contributions(FedAvg(), context, generator, weights=[1], size=0.01)
    return one


def with_delta(update, flat):
    return replace(update, delta=AdapterState(update.delta.layout, flat.astype(np.float32)))


def test_a_change_within_the_bound_passes(update):
    largest = max(
        float(np.sqrt(np.mean(np.square(of(update.delta.flat)))))
        for pair in update.geometry.pairs
        for of in (pair.a_of, pair.b_of)
    )
    check_movement(update, most=1.001 * largest)
    with pytest.raises(PeerError, match="root mean square"):
        check_movement(update, most=0.999 * largest)


@pytest.mark.parametrize("side", list(Side))
def test_factors_whose_product_is_honest_are_refused_where_one_is_outsized(lab, update, side):
    trained = lab.trained(update)
    turned = trained.copy()
    for pair in update.geometry.pairs:
        large, small = (pair.a_of, pair.b_of) if side is Side.A else (pair.b_of, pair.a_of)
        large(turned)[:] *= 1000
        small(turned)[:] /= 1000
    liar = with_delta(update, turned - update.received.flat)
    for pair in update.geometry.pairs:
        np.testing.assert_allclose(lab.dense(pair, lab.trained(liar)), lab.dense(pair, trained), rtol=1e-3, atol=1e-3)
    with pytest.raises(PeerError, match=rf"update of 'client-0': {side} of .* has moved by"):
        check_movement(liar, most=10.0)


def test_a_change_too_large_for_its_square_is_refused(update):
    with pytest.raises(PeerError, match="moved by inf"):
        check_movement(with_delta(update, np.full(update.delta.layout.size, 2.0**100)), most=10.0)

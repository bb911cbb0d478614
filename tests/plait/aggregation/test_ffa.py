import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.aggregation.fedavg import FEDAVG
from plait.aggregation.ffa import FFA
from plait.aggregation.geometry import Side
from plait.errors import PeerError


@settings(max_examples=30)
@given(weights=st.lists(st.integers(1, 1000), min_size=1, max_size=5), seed=st.integers(0, 2**32 - 1))
def test_the_mean_of_b_is_the_exact_mean_of_the_products(lab, weights, seed):
    generator = np.random.default_rng(seed)
    context = lab.context(lab.geometry(rank=3), generator)
    cohort = lab.contributions(FFA, context, generator, weights=weights)
    outcome = lab.run(FFA, context, cohort)
    np.testing.assert_allclose(outcome.step.flat, lab.mean_delta(cohort), rtol=1e-6, atol=1e-7)
    exact = lab.exact_mean(cohort)
    assert lab.distance(lab.result(context, outcome), exact) <= 1e-6 * lab.size(exact)


def test_only_b_is_trained_and_sent(lab):
    geometry = lab.geometry()
    assert FFA.trained(1) == FFA.trained(2) == {Side.B}
    sent = geometry.side_size(Side.B) + geometry.others_size
    assert FFA.traffic(geometry).uplink == FFA.traffic(geometry).downlink == sent


def test_an_update_that_trained_a_is_refused(lab):
    generator = np.random.default_rng(0)
    context = lab.context(lab.geometry(), generator)
    with pytest.raises(PeerError, match=r"A of .* has changed"):
        lab.run(FFA, context, lab.contributions(FEDAVG, context, generator, weights=[1]))

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.aggregation.geometry import Side
from plait.aggregation.rolora import ROLORA
from plait.errors import PeerError


@settings(max_examples=30)
@given(
    weights=st.lists(st.integers(1, 1000), min_size=1, max_size=5),
    round_number=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_mean_is_exact_in_every_round(lab, weights, round_number, seed):
    generator = np.random.default_rng(seed)
    context = lab.context(lab.geometry(), generator, round_number=round_number)
    cohort = lab.contributions(ROLORA, context, generator, weights=weights)
    outcome = lab.run(ROLORA, context, cohort)
    np.testing.assert_allclose(outcome.step.flat, lab.mean_delta(cohort), rtol=1e-6, atol=1e-7)
    exact = lab.exact_mean(cohort)
    assert lab.distance(lab.result(context, outcome), exact) <= 1e-6 * lab.size(exact)


def test_b_comes_first_since_a_fresh_adapter_gives_a_no_gradient():
    assert [ROLORA.trained(number) for number in (1, 2, 3)] == [{Side.B}, {Side.A}, {Side.B}]


def test_an_update_of_the_other_side_is_refused(lab):
    generator = np.random.default_rng(0)
    first, second = (lab.context(lab.geometry(), generator, round_number=number) for number in (1, 2))
    with pytest.raises(PeerError, match=r"B of .* has changed"):
        lab.run(ROLORA, second, lab.contributions(ROLORA, first, generator, weights=[1]))


def test_half_of_the_factors_travels(lab):
    geometry = lab.geometry(others=False)
    assert ROLORA.traffic(geometry).uplink == geometry.layout.size / 2

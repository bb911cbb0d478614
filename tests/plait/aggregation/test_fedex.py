import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.aggregation.fedavg import FEDAVG
from plait.aggregation.fedex import FEDEX


@settings(max_examples=30)
@given(
    weights=st.lists(st.integers(1, 1000), min_size=1, max_size=6),
    rank=st.integers(1, 4),
    alpha=st.sampled_from([1.0, 16.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_adapter_and_base_together_are_the_exact_mean(lab, weights, rank, alpha, seed):
    generator = np.random.default_rng(seed)
    context = lab.context(lab.geometry(rank=rank, alpha=alpha), generator)
    cohort = lab.contributions(FEDEX, context, generator, weights=weights)
    outcome = lab.run(FEDEX, context, cohort)
    exact = lab.exact_mean(cohort)
    assert lab.distance(lab.result(context, outcome), exact) <= 1e-6 * lab.size(exact)


def test_the_adapter_is_that_of_fedavg(lab):
    generator = np.random.default_rng(0)
    context = lab.context(lab.geometry(), generator)
    cohort = lab.contributions(FEDEX, context, generator, weights=[1, 2, 5])
    np.testing.assert_array_equal(lab.run(FEDEX, context, cohort).step.flat, lab.run(FEDAVG, context, cohort).step.flat)


def test_the_residual_has_the_rank_of_the_covariance(lab):
    generator = np.random.default_rng(0)
    context = lab.context(lab.geometry({"q": (40, 30)}, rank=2), generator)
    for clients in (1, 2, 4):
        cohort = lab.contributions(FEDEX, context, generator, weights=[1] * clients)
        (factors,) = lab.run(FEDEX, context, cohort).base.factors.values()
        assert factors.columns == 2 * (clients - 1)

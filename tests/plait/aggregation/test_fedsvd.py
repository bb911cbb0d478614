import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.aggregation.fedsvd import FEDSVD


@settings(max_examples=30)
@given(
    weights=st.lists(st.integers(1, 1000), min_size=1, max_size=5),
    rank=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_product_is_exact_and_a_has_orthonormal_rows(lab, weights, rank, seed):
    generator = np.random.default_rng(seed)
    context = lab.context(lab.geometry(rank=rank), generator)
    cohort = lab.contributions(FEDSVD, context, generator, weights=weights)
    outcome = lab.run(FEDSVD, context, cohort)
    exact = lab.exact_mean(cohort)
    assert lab.distance(lab.result(context, outcome), exact) <= 1e-6 * lab.size(exact)
    for pair in context.geometry.pairs:
        a, b = (of(lab.landed(context, outcome)) for of in (pair.a_of, pair.b_of))
        np.testing.assert_allclose(a @ a.T, np.eye(rank), atol=1e-5)
        singular = np.linalg.svd(lab.dense(pair, lab.landed(context, outcome)) / pair.scale, compute_uv=False)
        np.testing.assert_allclose(np.linalg.norm(b, axis=0), singular[:rank], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rank", [3, 7])
def test_a_round_without_any_change_of_a_fresh_adapter_still_makes_a_orthonormal(lab, rank):
    generator = np.random.default_rng(0)
    geometry = lab.geometry({"q": (6, 5)}, rank=rank)
    context = lab.context(geometry, generator, master=lab.fresh(geometry, generator))
    cohort = lab.contributions(FEDSVD, context, generator, weights=[1], size=0.0)
    (pair,) = geometry.pairs
    flat = lab.landed(context, lab.run(FEDSVD, context, cohort))
    rows = min(rank, 5)
    np.testing.assert_allclose(pair.a_of(flat)[:rows] @ pair.a_of(flat)[:rows].T, np.eye(rows), atol=1e-6)
    assert not pair.b_of(flat).any()

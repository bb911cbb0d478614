"""Rules that decompose a mean of products, beside what the oracles say of them."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.aggregation.products import FEDSVD, FLEXLORA, RAFLORA
from plait.errors import PeerError


def test_a_small_change_of_the_products_is_a_small_change_of_the_factors(lab):
    context, cohort = lab.round_of(FLEXLORA, weights=[1, 2], size=1e-4)
    step = lab.run(FLEXLORA, context, cohort).step
    assert np.linalg.norm(step.flat) < 0.01 * np.linalg.norm(context.master.flat)


def test_no_matrix_of_the_weights_size_is_formed(lab):
    side = 3000
    context, cohort = lab.round_of(FLEXLORA, lab.geometry({"q": (side, side)}, rank=2), weights=[1, 2, 3])
    tracemalloc.start()
    lab.run(FLEXLORA, context, cohort)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < side * side * 8 / 10


def test_a_rank_that_was_not_announced_is_refused(lab):
    context, cohort = lab.round_of(RAFLORA, lab.geometry(rank=2), weights=[1], geometries=[lab.geometry(rank=1)])
    with pytest.raises(PeerError, match="is 1, expected one of 2"):
        lab.run(RAFLORA, context, cohort)


@settings(max_examples=30)
@given(
    weights=st.lists(st.integers(1, 1000), min_size=1, max_size=5),
    rank=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_has_orthonormal_rows_and_b_the_singular_values(lab, weights, rank, seed):
    generator = np.random.default_rng(seed)
    context = lab.context(lab.geometry(rank=rank), generator)
    cohort = lab.contributions(FEDSVD, context, generator, weights=weights)
    outcome = lab.run(FEDSVD, context, cohort)
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

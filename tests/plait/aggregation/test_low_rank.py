"""Thin factors against dense products."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.aggregation.factors import balanced, factored, fitted, kept
from plait.aggregation.low_rank import LowRank, common_cores
from plait.aggregation.rule import Resizing

SHAPES = st.tuples(st.integers(1, 9), st.integers(0, 12), st.integers(1, 9), st.integers(0, 2**32 - 1))


def factors(shape):
    d_out, columns, d_in, seed = shape
    generator = np.random.default_rng(seed)
    return LowRank(generator.normal(size=(d_out, columns)), generator.normal(size=(columns, d_in)))


@given(SHAPES)
def test_norm_and_decomposition_are_those_of_the_dense_product(shape):
    product = factors(shape)
    dense = product.b @ product.a
    svd = product.svd()
    np.testing.assert_allclose(product.norm(), np.linalg.norm(dense), atol=1e-12)
    np.testing.assert_allclose(svd.u * svd.s @ svd.vt, dense, atol=1e-12)
    np.testing.assert_allclose(svd.vt @ svd.vt.T, np.eye(len(svd.s)), atol=1e-12)


@given(SHAPES, st.integers(0, 12), st.integers(-3, 3))
def test_cores_in_common_bases_stand_for_their_matrices_and_for_sums_of_them(shape, columns, factor):
    d_out, _, d_in, seed = shape
    matrices = factors(shape), factors((d_out, columns, d_in, seed + 1))
    one, other = common_cores(matrices)
    dense_one, dense_other = (matrix.b @ matrix.a for matrix in matrices)
    both = dense_one + factor * dense_other
    np.testing.assert_allclose(np.linalg.norm(one + factor * other), np.linalg.norm(both), atol=1e-11)
    found, wanted = (np.linalg.svd(matrix, compute_uv=False) for matrix in (one, dense_one))
    size = max(len(found), len(wanted))
    np.testing.assert_allclose(
        np.pad(found, (0, size - len(found))), np.pad(wanted, (0, size - len(wanted))), atol=1e-12
    )


CASES = st.tuples(st.integers(1, 8), st.integers(0, 6), st.integers(1, 8), st.integers(1, 5), st.integers(0, 2**32 - 1))


def product(case):
    d_out, columns, d_in, rank, seed = case
    generator = np.random.default_rng(seed)
    matrix = LowRank(generator.normal(size=(d_out, columns)), generator.normal(size=(columns, d_in)))
    return matrix, rank, generator.normal(size=(rank, d_in))


@pytest.mark.slow
@pytest.mark.parametrize("factor", [balanced, kept])
@given(case=CASES)
def test_the_factors_are_the_best_of_their_rank(lab, factor, case):
    matrix, rank, near = product(case)
    given_a = {"spare": near, "rank": rank} if factor is balanced else {"near": near}
    found = factor(matrix, scale=2.0, **given_a)
    dense = matrix.b @ matrix.a
    best = lab.best(dense, rank)
    np.testing.assert_allclose(2.0 * found.b @ found.a, best, atol=1e-9)
    np.testing.assert_allclose(found.dropped, np.linalg.norm(dense - best), atol=1e-9)
    assert found.a.shape == near.shape


def test_directions_without_use_keep_a_row_of_a_so_that_they_can_learn():
    near = np.random.default_rng(0).normal(size=(2, 5))
    for found in (
        balanced(LowRank.zero(7, 5), rank=2, scale=1.0, spare=near),
        kept(LowRank.zero(7, 5), scale=1.0, near=near),
    ):
        np.testing.assert_array_equal(found.a, near)
        assert not found.b.any()


@pytest.mark.parametrize("one_rank", [True, False])
def test_factors_stay_near_what_there_was_unless_ranks_differ(lab, one_rank):
    pair = lab.geometry().pairs[0]
    generator = np.random.default_rng(2)
    b, a = generator.normal(size=(pair.d_out, pair.rank)), generator.normal(size=(pair.rank, pair.d_in))
    found = factored(LowRank(pair.scale * b, a), pair, near=a, one_rank=one_rank)
    np.testing.assert_allclose(found.b @ found.a, b @ a, atol=1e-9)
    assert np.allclose(found.a, a) == one_rank
    assert np.allclose(np.linalg.norm(found.b, axis=0), np.linalg.norm(found.a, axis=1)) != one_rank


@pytest.mark.parametrize("resizing", list(Resizing))
@pytest.mark.parametrize(("rank", "alpha"), [(1, 4.0), (2, 8.0), (3, 4.0), (5, 1.0)])
def test_an_adapter_of_another_rank_means_the_same_or_the_best_that_its_rank_can(lab, resizing, rank, alpha):
    generator = np.random.default_rng(0)
    source, target = lab.geometry(rank=3), lab.geometry(rank=rank, alpha=alpha)
    state, fresh = lab.state(source, generator), lab.fresh(target, generator)
    result = fitted(state, source=source, target=target, resizing=resizing, fresh=fresh)
    for ours, theirs in zip(source.pairs, target.pairs, strict=True):
        expected = lab.dense(ours, state.flat)
        if rank < 3 and resizing is Resizing.BEST:
            expected = lab.best(expected, rank)
        elif rank < 3:
            expected = ours.scale * ours.b_of(state.flat)[:, :rank] @ ours.a_of(state.flat)[:rank]
        np.testing.assert_allclose(lab.dense(theirs, result.flat), expected, atol=1e-5)
        if rank > 3:
            np.testing.assert_array_equal(theirs.a_of(result.flat)[3:], theirs.a_of(fresh.flat)[3:])
    np.testing.assert_array_equal(target.others_of(result.flat), source.others_of(state.flat))


def test_a_fresh_adapter_stays_able_to_learn_at_a_lower_rank(lab):
    source, target = lab.geometry(rank=3), lab.geometry(rank=2)
    state = lab.fresh(source, np.random.default_rng(0))
    result = fitted(
        state, source=source, target=target, resizing=Resizing.BEST, fresh=lab.fresh(target, np.random.default_rng(1))
    )
    for ours, theirs in zip(source.pairs, target.pairs, strict=True):
        root = np.sqrt(ours.scale / theirs.scale)
        np.testing.assert_allclose(theirs.a_of(result.flat), root * ours.a_of(state.flat)[:2], rtol=1e-6)
        assert not theirs.b_of(result.flat).any()

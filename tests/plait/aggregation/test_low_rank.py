import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from plait.aggregation.low_rank import LowRank, common_cores, kept_rank

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


@given(SHAPES)
def test_as_many_columns_as_the_shorter_side_hold_everything(shape):
    product = factors(shape)
    fitted = product.fitted()
    assert fitted.columns <= max(product.largest_rank, 0) or fitted.columns == product.columns <= product.largest_rank
    np.testing.assert_allclose(fitted.b @ fitted.a, product.b @ product.a, atol=1e-12)


@given(SHAPES)
def test_compression_without_tolerance_keeps_the_matrix_in_as_many_columns_as_its_rank(shape):
    product = factors(shape)
    compressed = product.plus(product).compressed()
    dense = 2 * product.b @ product.a
    np.testing.assert_allclose(compressed.b @ compressed.a, dense, atol=1e-11)
    assert compressed.columns == (np.linalg.matrix_rank(dense) if dense.size else 0)


@given(SHAPES, st.floats(0, 1))
def test_compression_stays_within_its_tolerance(shape, tolerance):
    product = factors(shape)
    compressed = product.compressed(tolerance)
    error = np.linalg.norm(compressed.b @ compressed.a - product.b @ product.a)
    assert error <= tolerance * product.norm() + 1e-12


def test_the_signs_do_not_depend_on_those_of_the_factors():
    product = factors((6, 3, 5, 0))
    flipped = LowRank(-product.b, -product.a)
    np.testing.assert_allclose(product.svd().u, flipped.svd().u, atol=1e-12)
    assert (product.svd().vt.max(axis=1) >= -product.svd().vt.min(axis=1)).all()


def test_the_kept_rank_is_where_the_rest_is_small_enough():
    s = np.array([2.0, 1.0, 1.0])
    assert [kept_rank(s, tolerance=t, dimension=3) for t in (0.0, 0.41, 0.58, 1.0)] == [3, 2, 1, 0]


def test_nothing_has_rank_zero():
    assert LowRank.zero(3, 4).compressed().columns == 0
    assert LowRank.zero(3, 4).norm() == 0

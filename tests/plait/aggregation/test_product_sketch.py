import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.aggregation.product_sketch import ProductSketch


@pytest.mark.slow
@given(
    st.integers(2, 9),
    st.integers(2, 9),
    st.integers(1, 6),
    st.lists(st.integers(1, 4), min_size=1, max_size=20),
    st.integers(0, 2**32 - 1),
)
def test_the_sum_is_within_the_certified_bound_of_the_sketch(d_out, d_in, rank, ranks, seed):
    generator = np.random.default_rng(seed)
    sketch, exact = ProductSketch(d_out, d_in, rank=rank), np.zeros((d_out, d_in))
    for r in ranks:
        b = generator.normal(size=(d_out, r)).astype(np.float32)
        a = generator.normal(size=(r, d_in)).astype(np.float32)
        sketch.add(b, a, float(r))
        exact += r * b.astype(np.float64) @ a
    held, lost = sketch.result()
    assert held.columns <= rank
    assert np.linalg.norm(held.b @ held.a - exact) <= lost * (1 + 1e-9) + 1e-9


def test_a_sum_that_fits_is_held_exactly():
    generator = np.random.default_rng(0)
    sketch, exact = ProductSketch(9, 8, rank=4), np.zeros((9, 8))
    a = generator.normal(size=(4, 8)).astype(np.float32)
    for _ in range(10):
        b = generator.normal(size=(9, 4)).astype(np.float32)
        sketch.add(b, a, 1.0)
        exact += b.astype(np.float64) @ a
    held, lost = sketch.result()
    assert lost < 1e-10
    np.testing.assert_allclose(held.b @ held.a, exact, atol=1e-10)

import tracemalloc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from plait.aggregation.product_sum import ProductSum


@given(st.integers(1, 8), st.integers(1, 8), st.lists(st.integers(1, 4), max_size=30), st.integers(0, 2**32 - 1))
def test_the_sum_of_products_of_any_ranks_is_exact_and_never_wider_than_needed(d_out, d_in, ranks, seed):
    generator = np.random.default_rng(seed)
    total, expected = ProductSum(d_out, d_in), np.zeros((d_out, d_in))
    for rank in ranks:
        b = generator.normal(size=(d_out, rank)).astype(np.float32)
        a = generator.normal(size=(rank, d_in)).astype(np.float32)
        total.add(b, a, 0.5 * rank)
        expected += 0.5 * rank * b.astype(np.float64) @ a
    result = total.total()
    np.testing.assert_allclose(result.b @ result.a, expected, atol=1e-10)
    assert result.columns <= min(d_out, d_in)


def test_a_change_of_the_callers_arrays_changes_nothing():
    total = ProductSum(2, 2)
    b, a = np.ones((2, 1), np.float32), np.ones((1, 2), np.float32)
    total.add(b, a, 1.0)
    b[:] = 7
    np.testing.assert_allclose(total.total().b @ total.total().a, np.ones((2, 2)))


def test_memory_does_not_grow_with_the_number_of_products(lab):
    geometry = lab.geometry({"q": (24, 16)}, rank=4)
    flat = np.array(lab.state(geometry, np.random.default_rng(0)).flat)

    def held(clients):
        tracemalloc.start()
        total, pair = ProductSum(24, 16), geometry.pairs[0]
        for _ in range(clients):
            total.add(pair.b_of(flat), pair.a_of(flat), pair.scale)
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return size

    assert held(400) <= 1.1 * held(40)

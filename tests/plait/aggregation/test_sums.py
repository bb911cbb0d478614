"""Sums over the clients of a round."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.adapters import AdapterState, Layout
from plait.aggregation.sums import OrderFreeSum, ProductSum, WeightedSum, landing, step_to


def test_a_step_lands_within_rounding_of_what_was_wanted_and_on_zero_exactly():
    generator = np.random.default_rng(0)
    master = AdapterState(Layout.of({"x": [1000]}), generator.normal(size=1000).astype(np.float32))
    wanted = generator.normal(size=1000)
    np.testing.assert_allclose(landing(step_to(wanted, master), master), wanted, rtol=0, atol=3e-7)
    assert not landing(step_to(np.zeros(1000), master), master).any()


@pytest.mark.slow
@given(st.integers(0, 20_000), st.lists(st.integers(1, 10**9), min_size=1, max_size=20), st.integers(0, 2**32 - 1))
def test_the_sum_is_that_of_float64(size, weights, seed):
    values = np.random.default_rng(seed).normal(size=(len(weights), size)).astype(np.float32)
    total = WeightedSum(size)
    for row, weight in zip(values, weights, strict=True):
        total.add(row, float(weight))
    expected = np.array(weights, np.float64) @ values.astype(np.float64)
    np.testing.assert_allclose(total.total(), expected, rtol=1e-12, atol=1e-13 * sum(weights))
    assert total.weight == sum(weights)


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


def test_a_sum_that_says_so_is_exact_in_any_order():
    generator = np.random.default_rng(0)
    exact = 0
    for spread in range(0, 40, 2):
        values = generator.normal(size=(12, 50)) * 2.0 ** generator.uniform(-spread, 0, (12, 50))
        values[generator.random((12, 50)) < 0.2] = -0.0
        updates = values.astype(np.float32)
        sums = [OrderFreeSum(50) for _ in range(3)]
        for each in sums:
            for update in generator.permutation(updates):
                each.add(update)
        plain = WeightedSum(50)
        for update in updates:
            plain.add(update, 1.0)
        assert len({each.is_exact for each in sums}) == 1
        if sums[0].is_exact:
            exact += 1
            wanted = [sum(map(Fraction, column)) for column in updates.T.tolist()]
            assert all(each.mean().tobytes() == plain.mean().tobytes() for each in sums)
            assert [Fraction(value) for value in plain.total().tolist()] == wanted
    assert 3 < exact < 20


@pytest.mark.parametrize(
    ("values", "is_exact"),
    [([0.0, -0.0], True), ([1.0, 2.0**-28], True), ([1.0, 2.0**-29], False), ([2.0**-149, 2.0**-126], True)],
)
def test_a_sum_is_exact_while_all_values_are_of_similar_size(values, is_exact):
    found = OrderFreeSum(1)
    for value in values:
        found.add(np.array([value], np.float32))
    assert found.is_exact is is_exact

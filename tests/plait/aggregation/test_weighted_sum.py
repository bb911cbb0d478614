import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.aggregation.weighted_sum import WeightedSum


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


def test_more_can_be_added_after_a_look():
    total = WeightedSum(2)
    total.add(np.array([1, 2], np.float32), 2.0)
    np.testing.assert_array_equal(total.total(), [2, 4])
    total.add(np.array([1, 1], np.float32), 1.0)
    np.testing.assert_array_equal(total.total(), [3, 5])


def test_no_mean_of_nothing():
    with pytest.raises(ValueError, match="no update was added"):
        WeightedSum(2).mean()

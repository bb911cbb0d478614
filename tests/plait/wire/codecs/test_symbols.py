import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.wire.codecs.symbols import fit, frequencies, knots


@given(st.integers(0, 4096))
def test_knots_rise_from_zero_to_the_largest(largest):
    at = knots(largest)
    assert at[0] == 0
    assert at[-1] == largest
    assert list(at) == sorted(set(at))
    assert len(at) < 40


@given(largest=st.integers(0, 300), costs=st.binary(min_size=40, max_size=40))
def test_frequencies_are_whole_shares_of_two_to_the_24(largest, costs):
    found = frequencies(np.frombuffer(costs, np.uint8)[: len(knots(largest))], largest)
    assert found.shape == (2 * largest + 1,)
    assert found.min() >= 1
    assert found.sum() == 2**24


def test_a_cost_is_a_negative_logarithm():
    found = frequencies(np.array([8, 20], np.uint8), 1)  # 1 bit, and 2.5 bits with either sign
    weight = np.array([2**-2.5, 2**-1, 2**-2.5])
    np.testing.assert_allclose(found / 2**24, weight / weight.sum(), rtol=1e-6)


@pytest.mark.parametrize("deviation", [0.3, 2.0, 50.0])
def test_a_fitted_gaussian_costs_little_more_than_its_entropy(deviation):
    k = np.arange(int(6 * deviation) + 2)
    share = np.exp(-0.5 * (k / deviation) ** 2) * np.where(k, 2, 1)
    share /= share.sum()
    exact = -np.sum(share * np.log2(share / np.where(k, 2, 1)))
    length = -np.sum(share * np.log2(frequencies(fit(share * 1e6), k[-1])[k[-1] :] / 2**24))
    assert exact - 1e-6 <= length < exact + 0.01

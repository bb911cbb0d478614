import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from plait.adapters import AdapterState, Layout
from plait.aggregation import FedAvg

LAYOUT = Layout.of({"A": [2, 3], "B": [3, 2]})
FLATS = npst.arrays(np.float32, LAYOUT.size, elements=st.floats(-1e6, 1e6, width=32))
UPDATES = st.lists(st.tuples(FLATS, st.integers(1, 10**9)), min_size=1, max_size=6)


def combined(updates):
    accumulator = FedAvg().begin(AdapterState.zeros(LAYOUT))
    for flat, weight in updates:
        accumulator.add(AdapterState(LAYOUT, flat), float(weight))
    return accumulator.finish()


@given(updates=UPDATES)
def test_the_result_is_the_weighted_mean(updates):
    flats = np.array([flat for flat, _ in updates], np.float64)
    weights = np.array([weight for _, weight in updates], np.float64)
    # One rounding to float32, and float64's own where large numbers cancel.
    np.testing.assert_allclose(combined(updates).flat, np.average(flats, axis=0, weights=weights), rtol=1e-7, atol=1e-8)


@given(updates=UPDATES)
def test_the_mean_lies_between_the_updates(updates):
    flats = np.array([flat for flat, _ in updates])
    mean = combined(updates).flat
    slack = 1e-6 * np.abs(flats).max()
    assert (mean >= flats.min(axis=0) - slack).all()
    assert (mean <= flats.max(axis=0) + slack).all()


@given(flat=FLATS, weight=st.integers(1, 10**9))
def test_clients_that_agree_are_taken_at_their_word(flat, weight):
    np.testing.assert_allclose(combined([(flat, weight), (flat, 1)]).flat, flat, rtol=1e-7, atol=0)


def test_what_float32_would_drop_is_summed():
    big, small = (np.full(LAYOUT.size, value, np.float32) for value in (2.0**24, 1.0))
    # In float32, 2^24 + 1 = 2^24.
    result = combined([(big, 1), (small, 1), (-big, 1), (small, 1)])
    np.testing.assert_array_equal(result.flat, np.float32(0.5))


def test_the_mean_of_b_and_a_apart_is_off_by_their_covariance():
    generator = np.random.default_rng(0)
    weights = np.array([1.0, 3.0])
    states = [AdapterState(LAYOUT, generator.normal(size=LAYOUT.size).astype(np.float32)) for _ in weights]
    mean = combined([(state.flat, weight) for state, weight in zip(states, weights, strict=True)])
    shares = weights / weights.sum()
    # B: (3, rank 2), A: (rank 2, 3)
    exact = sum(p * s["B"].astype(np.float64) @ s["A"] for p, s in zip(shares, states, strict=True))
    covariance = sum(p * (s["B"] - mean["B"]) @ (s["A"] - mean["A"]) for p, s in zip(shares, states, strict=True))
    np.testing.assert_allclose(mean["B"] @ mean["A"] + covariance, exact, atol=1e-6)
    assert np.abs(covariance).max() > 0.1


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_is_no_weight_is_our_own_mistake(weight):
    accumulator = FedAvg().begin(AdapterState.zeros(LAYOUT))
    with pytest.raises(ValueError, match="expected a positive finite number"):
        accumulator.add(AdapterState.zeros(LAYOUT), weight)


def test_another_layout_is_our_own_mistake():
    accumulator = FedAvg().begin(AdapterState.zeros(LAYOUT))
    with pytest.raises(ValueError, match="another layout"):
        accumulator.add(AdapterState.zeros(Layout.of({"A": [12]})), 1.0)


def test_no_update_is_our_own_mistake():
    with pytest.raises(ValueError, match="no update was added"):
        FedAvg().begin(AdapterState.zeros(LAYOUT)).finish()

"""Sums that are not rounded: whatever is added in whatever groups, the same bits."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.aggregation import exact_sum
from plait.aggregation.exact_sum import ExactSum
from plait.aggregation.weighted_sum import WeightedSum


@pytest.fixture(autouse=True, params=["compiled", "numpy"])
def _way(request, monkeypatch):
    if request.param == "numpy":
        monkeypatch.setattr(exact_sum, "library", lambda: None)
    elif exact_sum.library() is None:
        pytest.skip("no C++ compiler here")


SEEDS = st.integers(0, 2**32 - 1)
# Whole numbers as counts of clients and examples are, fractions, and what has bits far apart.
WEIGHTS = st.sampled_from([1.0, 3.0, 100.0, 65_535.0, 65_536.0, 1e5 + 1, 7e9, 1e12, 1 / 3, 0.1, 2.0**-30])


def deltas(seed, count, size):
    """Of every kind of spread: coarse codecs', trained ones', and the whole range of float32."""
    generator = np.random.default_rng(seed)
    for _ in range(count):
        kind = generator.integers(4)
        values = generator.normal(size=size)
        if kind == 0:
            values = np.sign(values) * (generator.random(size) < 0.5) * 1e-3
        elif kind == 1:
            values = values * 1e-3
        elif kind == 2:
            values = values * 10.0 ** generator.integers(-44, 36, size=size)
        yield values.astype(np.float32) if kind < 3 else np.zeros(size, np.float32)


def added(addends):
    total = ExactSum(len(addends[0][0]))
    for values, weight in addends:
        total.add(values, weight)
    return total


def summed(addends):
    return added(addends).part()


def exactly(part):
    return [
        sum(Fraction(limb[at]) * Fraction(2) ** (32 * place) for place, limb in part.limbs.items())
        for at in range(len(part.limbs[0] if 0 in part.limbs else next(iter(part.limbs.values()))))
    ]


@pytest.mark.slow
@given(SEEDS, st.lists(WEIGHTS, min_size=1, max_size=30))
def test_nothing_is_rounded(seed, weights):
    addends = list(zip(deltas(seed, len(weights), 7), weights, strict=True))
    part = summed(addends)
    expected = [sum(Fraction(float(v[at])) * Fraction(w) for v, w in addends) for at in range(7)]
    assert exactly(part) == expected
    assert part.weight == pytest.approx(sum(weights))
    # And the one rounding at the end is off by a unit in the last place at most.
    for found, exact in zip(part.total(), expected, strict=True):
        assert abs(Fraction(found) - exact) <= Fraction(np.spacing(abs(found)))


@pytest.mark.slow
@given(SEEDS, st.lists(st.integers(1, 10**6), min_size=2, max_size=40), st.integers(1, 6))
def test_any_order_and_any_groups_give_the_same_bits(seed, weights, groups):
    addends = list(zip(deltas(seed, len(weights), 9), map(float, weights), strict=True))
    flat = summed(addends)
    generator = np.random.default_rng(seed)
    generator.shuffle(addends)
    tree = ExactSum(9)
    of = generator.integers(groups, size=len(addends))
    for group in range(groups):
        if members := [addend for addend, its in zip(addends, of, strict=True) if its == group]:
            tree.join(summed(members))
    assert tree.mean32().tobytes() == flat.mean().tobytes() == added(addends).mean32().tobytes()
    assert added(addends).mean().tobytes() == tree.mean().tobytes()
    assert tree.mean().tobytes() == np.divide(flat.total(), flat.weight).tobytes()
    assert tree.weight == flat.weight


@pytest.mark.slow
@given(SEEDS)
def test_what_float64_holds_as_it_is_has_the_mean_of_what_was_cut(seed):
    generator = np.random.default_rng(seed)
    # Of one unit and either sign, and sums of up to 53 bits, so that they have two places or three.
    unit = 2.0 ** generator.integers(-100, 60)
    numbers = generator.integers(2**23, 2**24, size=(30, 9)) * generator.integers(-1, 2, size=(30, 9))
    addends = [((row * unit).astype(np.float32), float(generator.integers(1, 2**24))) for row in numbers]
    total = added(addends)
    mean, mean32 = total.mean(), total.mean32()
    assert (not total._limbs) is (exact_sum.library() is not None)
    part = total.part()
    assert len(part.limbs) > 1
    assert mean.tobytes() == np.divide(part.total(), part.weight).tobytes()
    assert mean32.tobytes() == part.mean().tobytes()


def test_so_many_addends_that_limbs_have_to_carry(monkeypatch):
    monkeypatch.setattr(exact_sum, "_MOST_ADDENDS", 20)
    values = np.array([3.4e38, -3.4e38, 1e-45, 1.0], np.float32)
    odd = np.array([1e-45, 1.0, -1e-45, -3e-20], np.float32)
    addends = [(values, 65_535.0), (odd, 65_535.0)] * 40
    part = summed(addends)
    assert exactly(part) == [
        40 * 65_535 * (Fraction(float(a)) + Fraction(float(b))) for a, b in zip(values, odd, strict=True)
    ]


def test_more_blocks_than_one(monkeypatch):
    monkeypatch.setattr(exact_sum, "_BLOCK_ELEMENTS", 4)
    addends = list(zip(deltas(5, 20, 11), [1.0, 2.0] * 10, strict=True))
    assert exactly(summed(addends)) == [
        sum(Fraction(float(v[at])) * Fraction(w) for v, w in addends) for at in range(11)
    ]


def test_means_are_those_of_float64_sums():
    """Which rules used before: rounding to float32 hides the last bits of float64."""
    generator = np.random.default_rng(0)
    exact, usual = ExactSum(10_000), WeightedSum(10_000)
    for _ in range(20):
        values, weight = generator.normal(size=10_000).astype(np.float32), float(generator.integers(1, 1000))
        exact.add(values, weight)
        usual.add(values, weight)
    assert exact.mean32().tobytes() == usual.mean().astype(np.float32).tobytes()


def test_no_mean_of_nothing():
    for mean in (ExactSum(2).mean, ExactSum(2).mean32):
        with pytest.raises(ValueError, match="no update was added"):
            mean()

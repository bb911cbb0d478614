import numpy as np
import pytest

from plait.wire.codecs.paths import Mix, Numbers, quantise
from plait.wire.codecs.quantiser import Quantisers
from plait.wire.codecs.trellis import Trellis

CHANCE = np.random.default_rng(0)
LOUD, QUIET = (CHANCE.standard_normal(3000).astype(np.float32) * scale for scale in (2.0, 1.0))
NUMBERS = Numbers([LOUD, QUIET], 7)
STEP = np.float32(0.8)
GUESS = [Quantisers.gaussian(group / STEP) for group in NUMBERS.groups]
TRELLIS = Trellis(3)


def price(value: float) -> Mix:
    return Mix(value, value, 1)


def test_indices_follow_the_trellis():
    path = quantise(NUMBERS, STEP, GUESS, price(0.3), TRELLIS)
    index, quantiser = path.index(), path.quantiser()
    state = TRELLIS.first(7)
    for start in range(0, NUMBERS.size, 7):
        row = index[start : start + 7]
        state = state[: row.size]
        np.testing.assert_array_equal(quantiser[start : start + 7], state & 1)
        state = TRELLIS.following[2 * state + (row & 1)]


def test_bits_are_those_of_the_fitted_quantisers():
    path = quantise(NUMBERS, STEP, GUESS, price(0.3), TRELLIS)
    index, quantiser = path.index(), path.quantiser()
    total = 0.0
    for each, part in zip(path.quantisers, (slice(0, 3000), slice(3000, 6000)), strict=True):
        for q in (0, 1):
            total += each.bits(q)[index[part][quantiser[part] == q] + each.largest].sum(dtype=np.float64)
    assert path.bits == pytest.approx(total / NUMBERS.size, rel=1e-6)


def test_points_are_near_the_numbers():
    path = quantise(NUMBERS, STEP, GUESS, price(0.0), TRELLIS)
    index, quantiser = path.index()[:3000], path.quantiser()[:3000]
    points = np.stack([path.quantisers[0].points(q) for q in (0, 1)])
    error = points[quantiser, index + path.quantisers[0].largest] * STEP - LOUD
    assert np.mean(error**2) < STEP**2 / 3  # a scalar quantiser with points 2 steps apart


def test_a_higher_price_buys_fewer_bits_and_a_mix_lies_between():
    low, high = (quantise(NUMBERS, STEP, GUESS, price(value), TRELLIS).bits for value in (0.1, 1.0))
    mixed = quantise(NUMBERS, STEP, GUESS, Mix(0.1, 1.0, 3 / 7), TRELLIS)
    assert high < mixed.bits < low
    alone = quantise(NUMBERS, STEP, GUESS, price(0.1), TRELLIS)
    lane = np.arange(NUMBERS.size) % 7
    np.testing.assert_array_equal(mixed.index()[lane < 3], alone.index()[lane < 3])


def test_a_sample_has_numbers_of_every_group():
    sample = NUMBERS.sample(600, 10)
    assert [group.size for group in sample.groups] == [300, 300]
    assert sample.lanes == 60

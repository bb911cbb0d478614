import itertools

import numpy as np
import pytest

from plait.wire.codecs import compiled
from plait.wire.codecs.trellis import GREATEST_COST, STATE_BITS, Mix, Numbers, Quantisers, Trellis, quantise


@pytest.fixture(autouse=True)
def by_numpy(monkeypatch):
    monkeypatch.setattr(compiled, "library", lambda: None)


@pytest.mark.parametrize("state_bits", sorted(STATE_BITS))
def test_two_moves_lead_to_every_state_and_two_from_it(state_bits):
    following = Trellis(state_bits).following.reshape(-1, 2)
    assert sorted(following.ravel()) == sorted([*range(2**state_bits)] * 2)
    assert (following[:, 0] != following[:, 1]).all()


@pytest.mark.parametrize("state_bits", [2, 3, 4])
@pytest.mark.parametrize(("size", "lanes"), [(6, 1), (11, 2), (13, 5)])
def test_no_path_is_cheaper(state_bits, size, lanes):
    trellis = Trellis(state_bits)
    costs = np.random.default_rng(0).integers(0, GREATEST_COST + 1, (4, 9), np.int16)
    cell = np.random.default_rng(1).integers(0, 9, size, np.int32)
    found = trellis.cheapest(cell, costs, lanes)
    for lane in range(lanes):
        mine = cell[lane::lanes]

        def follow(parities, lane=lane, mine=mine):
            state, branches, cost = trellis.first(lanes)[lane], [], 0
            for parity, here in zip(parities, mine, strict=True):
                branches.append(2 * (state & 1) + parity)
                cost += int(costs[branches[-1], here])
                state = trellis.following[2 * state + parity]
            return cost, branches

        paths = [follow(parities) for parities in itertools.product((0, 1), repeat=mine.size)]
        cheapest = min(cost for cost, _ in paths)
        assert found[lane::lanes].tolist() in [branches for cost, branches in paths if cost == cheapest]


CHANCE = np.random.default_rng(0)
LOUD, QUIET = (CHANCE.standard_normal(3000).astype(np.float32) * scale for scale in (2.0, 1.0))
NUMBERS = Numbers([LOUD, QUIET], 7)
STEP = np.float32(0.8)
GUESS = [Quantisers.gaussian(group / STEP) for group in NUMBERS.groups]
TRELLIS = Trellis(3)


def price(value: float) -> Mix:
    return Mix(value, value, 1)


def test_a_higher_price_buys_fewer_bits_and_a_mix_lies_between():
    low, high = (quantise(NUMBERS, STEP, GUESS, price(value), TRELLIS).bits for value in (0.1, 1.0))
    mixed = quantise(NUMBERS, STEP, GUESS, Mix(0.1, 1.0, 3 / 7), TRELLIS)
    assert high < mixed.bits < low
    alone = quantise(NUMBERS, STEP, GUESS, price(0.1), TRELLIS)
    lane = np.arange(NUMBERS.size) % 7
    np.testing.assert_array_equal(mixed.index()[lane < 3], alone.index()[lane < 3])

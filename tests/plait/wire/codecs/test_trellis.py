import itertools

import numpy as np
import pytest

from plait.wire.codecs import compiled
from plait.wire.codecs.trellis import GREATEST_COST, Trellis


@pytest.fixture(autouse=True)
def by_numpy(monkeypatch):
    monkeypatch.setattr(compiled, "library", lambda: None)


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

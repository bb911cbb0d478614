from pathlib import Path

import numpy as np
import pytest

from plait.training.fused import trellis
from plait.wire.codecs.trellis import GREATEST_COST, STATE_BITS, Trellis


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(Trellis, "faster", None)


@pytest.mark.parametrize("greatest", [3, GREATEST_COST])  # small costs are often equal
@pytest.mark.parametrize(("size", "lanes"), [(6, 1), (11, 2), (1000, 37), (1283, 64), (2000, 150)])
def test_the_paths_are_those_of_numpy(size, lanes, greatest):
    chance = np.random.default_rng(size)
    costs = chance.integers(0, greatest + 1, (4, 30), np.int16)
    cell = chance.integers(0, 30, size, np.int32)
    for state_bits in sorted(STATE_BITS):
        searched = Trellis(state_bits)
        found = trellis.compiled_search(cell, costs, lanes, searched._before)
        if found is None:
            pytest.skip("no C++ compiler here")
        np.testing.assert_array_equal(found, searched.cheapest(cell, costs, lanes))


def test_a_bundle_without_the_source_leaves_it_to_numpy(monkeypatch):
    monkeypatch.setattr(trellis, "_SOURCE", Path("not there.cpp"))
    monkeypatch.setattr(trellis, "_function", trellis._function.__wrapped__)
    trellis.search_in_compiled_code()
    costs = np.ones((4, 3), np.int16)
    assert Trellis(4).cheapest(np.zeros(7, np.int32), costs, 2).size == 7

import numpy as np

from plait.wire.codecs.cells import Cells
from plait.wire.codecs.quantiser import Quantisers

VALUE = np.random.default_rng(0).standard_normal(4000).astype(np.float32) * 3
QUANTISERS = Quantisers.gaussian(VALUE)


def test_no_index_of_a_branch_is_cheaper():
    price = 0.4
    cells = Cells.of(QUANTISERS, price)
    largest = QUANTISERS.largest
    index = np.arange(-largest, largest + 1)
    all_costs = []
    for branch in range(4):
        points, bits = QUANTISERS.points(branch >> 1), QUANTISERS.bits(branch >> 1)
        cost = (cells.middle[:, None] - points) ** 2 + price * bits
        cost[:, index % 2 != branch & 1] = np.inf
        all_costs.append(cost.min(axis=1))
        chosen = cost[np.arange(cells.middle.size), cells.choice[branch] + largest]
        np.testing.assert_allclose(chosen, cost.min(axis=1), rtol=1e-5)
    relative = np.stack(all_costs) - np.min(all_costs, axis=0)
    small = relative < 7
    np.testing.assert_allclose(cells.costs[small] / 256, relative[small], atol=1 / 256)


def test_numbers_go_to_the_nearest_cell_and_those_beyond_to_the_last():
    cells = Cells.of(QUANTISERS, 0.4)
    value = np.concatenate([VALUE, np.array([1e30, -1e30], np.float32)])
    place = np.empty(value.size, np.int32)
    cells.sort(value, 5, out=place)
    assert np.abs(cells.middle[place[:-2] - 5] - VALUE).max() <= 0.5 / cells.per_step
    assert place[-2:].tolist() == [5 + cells.middle.size - 1, 5]

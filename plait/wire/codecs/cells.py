"""Narrow cells of the number line, so that the search computes costs per cell instead of per number.

For every cell and every branch of the trellis (2 * quantiser + parity of the index): the cheapest index, and its cost,
squared error + λ · bits, above that of the cheapest branch. Knows no trellis and no payload.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plait.adapters.state import Float32
from plait.wire.codecs.quantiser import LARGEST, Index, Quantisers
from plait.wire.codecs.trellis import GREATEST_COST, Cost

_COST_UNIT = 256  # an integer cost is in units of this fraction of a squared step
_CELLS_PER_STEP = ((64, 16), (512, 8), (LARGEST, 4))  # as long as no index is greater


@dataclass(frozen=True)
class Cells:
    """Cells of one group of numbers.

    Attributes:
        middle: (cells,) centre of each, in steps.
        costs: (4, cells) of each branch.
        choice: (4, cells) the index with that cost.
    """

    per_step: int
    middle: Float32
    costs: Cost
    choice: Index

    @classmethod
    def of(cls, quantisers: Quantisers, price: float) -> Cells:
        """The cells within reach of these quantisers, at `price` squared steps per bit."""
        largest = quantisers.largest
        per_step = next(cells for most, cells in _CELLS_PER_STEP if largest <= most)
        reach = (2 * largest + 2) * per_step
        middle = np.arange(-reach, reach + 1, dtype=np.float32) / np.float32(per_step)
        # (quantiser, parity, neighbour, cell)
        parity = np.arange(2, dtype=np.int32)[:, None]
        nearest = 2 * np.rint((middle / 2 - parity.astype(np.float32)) / 2).astype(np.int32) + parity
        candidate = nearest[:, None] + np.array([0, -2, 2], np.int32)[:, None]
        at = np.clip(candidate, -largest, largest) + largest
        points = np.stack([quantisers.points(each) for each in (0, 1)])
        bits = np.stack([quantisers.bits(each) for each in (0, 1)]) * np.float32(price)
        cost = np.square(middle - points[:, at]) + bits[:, at]
        cost[:, np.abs(candidate) > largest] = np.inf
        best = cost.argmin(axis=2, keepdims=True)
        costs = np.take_along_axis(cost, best, 2).reshape(4, -1)
        choice = np.take_along_axis(candidate[None], best, 2).reshape(4, -1)
        costs -= costs.min(axis=0)
        whole = np.rint(np.minimum(costs * np.float32(_COST_UNIT), GREATEST_COST)).astype(np.int16)
        return cls(per_step, middle, whole, choice)

    def sort(self, value: Float32, first: int, *, out: NDArray[np.int32]) -> None:
        """Write into `out` the cell of each number (in steps), counting from `first`."""
        half = self.middle.size // 2
        place = value * np.float32(self.per_step)
        np.rint(place, out=place)
        np.clip(place, -half, half, out=place)
        np.add(place, half + first, out=out, casting="unsafe")

"""Quantise numbers of several groups along the cheapest paths through the trellis, and fit quantisers to the result.

The cost of a path is squared error + λ · bits under guessed quantisers, in squared steps. Knows no target rate and no
payload.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plait.adapters.state import Float32
from plait.wire.codecs import compiled
from plait.wire.codecs.cells import Cells
from plait.wire.codecs.quantiser import Index, Quantiser, Quantisers
from plait.wire.codecs.trellis import Trellis


@dataclass(frozen=True)
class Numbers:
    """The numbers to quantise: group after group, distributed over lanes (number i is in lane i mod lanes)."""

    groups: Sequence[Float32]
    lanes: int

    @property
    def size(self) -> int:
        """Number of numbers."""
        return sum(group.size for group in self.groups)

    def sample(self, about: int, lane_steps: int) -> Numbers:
        """A sample of each group at regular intervals, of about this total size, over lanes of this many steps."""
        groups = [group[:: max(1, self.size // about)] for group in self.groups]
        return Numbers(groups, max(1, sum(group.size for group in groups) // lane_steps))


@dataclass(frozen=True)
class Mix:
    """The price of a bit, λ: `low` for the first `share` of the lanes, `high` for the others."""

    low: float
    high: float
    share: float


@dataclass(frozen=True)
class Path:
    """Quantised numbers.

    Attributes:
        step: distance of the points; 2 steps within a quantiser.
        quantisers: of each group, fitted to it.
        bits: per number, without parameters, ideally.
    """

    step: np.float32
    quantisers: Sequence[Quantisers]
    bits: float
    _choice: Index  # (4, cells) index of a number, by branch and cell
    _branch: NDArray[np.uint8]  # (n,)
    _cell: NDArray[np.int32]  # (n,)

    def index(self) -> Index:
        """(n,) of each number."""
        if (taken := compiled.take(self._branch, self._cell, self._choice)) is not None:
            return taken
        return self._choice.ravel().take(_place(self._branch, self._cell, self._choice.shape[1]))

    def quantiser(self) -> Quantiser:
        """(n,) 0 or 1, the trellis's choice for each number."""
        return np.right_shift(self._branch, 1, dtype=np.uint8)


def quantise(numbers: Numbers, step: np.float32, guess: Sequence[Quantisers], mix: Mix, trellis: Trellis) -> Path:
    """The cheapest paths under the guessed quantisers, and the quantisers fitted to them."""
    at_low = round(min(1.0, max(0.0, mix.share)) * numbers.lanes)
    prices = [mix.low] * (at_low > 0) + [mix.high] * (at_low < numbers.lanes)
    cell = np.empty(numbers.size, np.int32)
    tables: list[list[Cells]] = []  # for each group, of each price
    start = width = 0
    for group, guessed in zip(numbers.groups, guess, strict=True):
        value = group / step
        reaching = guessed.widened(Quantisers.reach(value))
        tables.append([Cells.of(reaching, price) for price in prices])
        tables[-1][0].sort(value, width, out=cell[start : start + value.size])
        start, width = start + value.size, width + tables[-1][0].middle.size
    if len(prices) > 1:
        whole = cell.size - cell.size % numbers.lanes
        cell[:whole].reshape(-1, numbers.lanes)[:, at_low:] += np.int32(width)
        cell[whole + at_low :] += np.int32(width)
    in_order = [table[way] for way in range(len(prices)) for table in tables]
    choice = np.concatenate([cells.choice for cells in in_order], axis=1)
    branch = trellis.cheapest(cell, np.concatenate([cells.costs for cells in in_order], axis=1), numbers.lanes)

    if (count := compiled.count(branch, cell, choice.shape[1])) is None:
        count = np.bincount(_place(branch, cell, choice.shape[1]), minlength=choice.size)
    count, ways = count.reshape(4, len(prices), width), choice.reshape(4, len(prices), width)
    fitted: list[Quantisers] = []
    length_bits, start = 0.0, 0
    for table in tables:
        part = slice(start, start := start + table[0].middle.size)
        there = count[:, :, part].nonzero()
        index, many = ways[:, :, part][there], count[:, :, part][there]
        quantiser, middle = (there[0] >> 1).astype(np.uint8), table[0].middle[there[2]]
        fitted.append(Quantisers.fitted(middle, index, quantiser, many))
        length_bits += fitted[-1].length_bits(index, quantiser, many)
    return Path(step, fitted, length_bits / cell.size, choice, branch, cell)


def _place(branch: NDArray[np.uint8], cell: NDArray[np.int32], cells: int) -> NDArray[np.int32]:
    place = branch * np.int32(cells)
    place += cell
    return place

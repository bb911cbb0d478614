"""Trellis-coded quantisation: two interleaved scalar quantisers, and a state machine that selects the next one.

Point k of quantiser q is at sign(k) · (2 |k| - q) steps, minus a shift to the centroid of its numbers; the parity of an
index changes the state. The encoder finds the path of least squared error + λ · bits (Viterbi), the decoder follows it.
Marcellin and Fischer (IEEE Trans. Commun. 1990), with the union codebooks of Fischer and Wang (IEEE Trans. Inf. Theory
1992) and Ungerboeck's codes (same journal, 1982, table I). Lanes run in parallel, so that numpy works on whole rows.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from plait.adapters.state import Float32
from plait.errors import PeerError
from plait.wire.codecs import compiled
from plait.wire.codecs.entropy import PRECISION, fit, frequencies, knots

LARGEST = 4096  # magnitudes beyond are clipped
LEAST_STEP = 2.0**-126
GREATEST_STEP = 2.0**114  # the furthest point, 2 · 4,096 + 2 steps away, is then still a float32
_SHIFTED = 3  # magnitudes with their own shift; larger ones use the last
_SHIFT_UNIT = 64  # a shift's byte is in units of this fraction of a step

Index = NDArray[np.int32]
Quantiser = NDArray[np.uint8]


@dataclass(frozen=True)
class Quantisers:
    """Points and probabilities of both quantisers.

    Attributes:
        largest: largest magnitude of an index.
        shifts: (2, 3) int8, of the points with magnitude 1, 2 and from 3 on, towards zero, in 64ths of a step.
        costs: for each quantiser the cost of a magnitude at every knot, in eighths of a bit.
    """

    largest: int
    shifts: NDArray[np.int8]
    costs: tuple[NDArray[np.uint8], NDArray[np.uint8]]

    def points(self, quantiser: int) -> Float32:
        """(2 largest + 1,) positions of -largest … largest, in steps; exact in float32."""
        k = np.arange(-self.largest, self.largest + 1)
        shift = np.concatenate([[0], self.shifts[quantiser]])[np.minimum(np.abs(k), _SHIFTED)] / _SHIFT_UNIT
        return (2 * k - np.sign(k) * (quantiser + shift)).astype(np.float32)

    @cached_property
    def frequencies(self) -> list[NDArray[np.int64]]:
        """Of both quantisers, (2 largest + 1,) frequencies of -largest … largest; they sum to 2**24."""
        return [frequencies(costs, self.largest) for costs in self.costs]

    @cached_property
    def bits(self) -> list[Float32]:
        """Of both quantisers, (2 largest + 1,) length of each index in bits."""
        return [(PRECISION - np.log2(each)).astype(np.float32) for each in self.frequencies]

    @property
    def size_bytes(self) -> int:
        """Number of bytes as sent."""
        return 2 + 2 * _SHIFTED + sum(costs.size for costs in self.costs)

    def pack(self) -> bytes:
        """The bytes as sent."""
        return (
            struct.pack("<H", self.largest) + self.shifts.tobytes() + self.costs[0].tobytes() + self.costs[1].tobytes()
        )

    @classmethod
    def unpack(cls, data: bytes, position: int) -> tuple[Quantisers, int]:
        """Read quantisers at `position`; also returns their end."""
        start = position + 2 + 2 * _SHIFTED
        largest = int.from_bytes(data[position : position + 2], "little")
        if not 1 <= largest <= LARGEST:
            raise PeerError(f"largest index is {largest}, expected 1 to {LARGEST}")
        count = len(knots(largest))
        end = start + 2 * count
        if len(data) < end:
            raise PeerError(f"codec parameters have {len(data)} bytes, expected at least {end}")
        shifts = np.frombuffer(data, np.int8, 2 * _SHIFTED, position + 2).reshape(2, _SHIFTED)
        first, second = (np.frombuffer(data, np.uint8, count, start + side * count) for side in (0, 1))
        return cls(largest, shifts, (first, second)), end

    @staticmethod
    def reach(value: Float32) -> int:
        """The largest index magnitude that these numbers (in steps) need."""
        furthest = max(float(value.max(initial=0)), -float(value.min(initial=0)))
        return int(min(LARGEST, max(1, np.ceil(furthest / 2))))

    @classmethod
    def gaussian(cls, value: Float32) -> Quantisers:
        """A first guess for numbers in steps: points and probabilities of a Gaussian with their variance."""
        largest, variance = (cls.reach(value), max(float(np.mean(np.square(value, dtype=np.float64))), 0.2))
        costs: list[NDArray[np.uint8]] = []
        for quantiser in (0, 1):
            k = np.arange(largest + 1)
            point = 2.0 * k - quantiser * (k > 0)
            density = np.exp(-(point**2) / (2 * variance)) + 1e-7
            density[1:] *= 2
            costs.append(fit(density * 1e6))
        return cls(largest, np.zeros((2, _SHIFTED), np.int8), (costs[0], costs[1]))

    @classmethod
    def fitted(cls, value: Float32, index: Index, quantiser: Quantiser, count: NDArray[np.intp]) -> Quantisers:
        """The quantisers fitted to numbers (in steps), each of which was quantised `count` times."""
        magnitude = np.abs(index)
        largest = max(1, int(magnitude.max(initial=0)))
        counts = np.bincount(2 * magnitude + quantiser, count, 2 * largest + 2).reshape(-1, 2).astype(np.float64)
        near = 2 * np.minimum(magnitude, _SHIFTED) + quantiser
        excess = (2 * magnitude - quantiser - value * np.sign(index)) * count
        total, among = (
            np.bincount(near, weight, 2 * _SHIFTED + 2).reshape(-1, 2).T[:, 1:] for weight in (excess, count)
        )
        shifts = np.clip(np.rint(total / np.maximum(among, 1) * _SHIFT_UNIT), -127, 127).astype(np.int8)
        return cls(largest, shifts, (fit(counts[:, 0]), fit(counts[:, 1])))

    def widened(self, largest: int) -> Quantisers:
        """The same quantisers with at least `largest` as their largest magnitude."""
        if largest <= self.largest:
            return self
        costs: list[NDArray[np.uint8]] = []
        for quantiser in (0, 1):
            counts = np.zeros(largest + 1)
            counts[: self.largest + 1] = self.frequencies[quantiser][self.largest :]
            counts[1:] *= 2
            costs.append(fit(counts * (1e6 / counts.sum())))
        return Quantisers(largest, self.shifts, (costs[0], costs[1]))

    def length_bits(self, index: Index, quantiser: Quantiser, count: NDArray[np.intp]) -> float:
        """Ideal number of bits of the indices if each occurs `count` times."""
        bits = np.concatenate(self.bits)
        place = quantiser * np.int32(2 * self.largest + 1) + index + self.largest
        return float(np.sum(bits.take(place) * count, dtype=np.float64))


# log2 of the number of states: parity-check polynomials (h0, h1).
_POLYNOMIALS: Mapping[int, tuple[int, int]] = {
    2: (0o5, 0o2),
    3: (0o13, 0o4),
    4: (0o23, 0o4),
    5: (0o45, 0o10),
    6: (0o103, 0o24),
    7: (0o235, 0o126),
    8: (0o515, 0o362),
}
STATE_BITS = frozenset(_POLYNOMIALS)

LANE_STEPS = 512

Cost = NDArray[np.int16]
# A state is at most 8 steps from every other, so sums over a path differ by at most 8 · GREATEST_COST. They stay below
# 2**15 for 8 more steps, even if they begin beyond that, where no allowed path can end.
GREATEST_COST = 2047
"""Of a branch."""


def lanes_of(size: int) -> int:
    """Number of lanes for `size` numbers (part of the format)."""
    return max(1, size // LANE_STEPS)


class Trellis:
    """A trellis of 2**state_bits states; state s uses quantiser s & 1, and lane l begins in state l mod 2**state_bits.

    Attributes:
        following: (states * 2,) the state after state s and an index of parity p, at 2 s + p.
        turns: by branch 2 * quantiser + parity, the mask that turns a state within its half into the half of the one
            before.
        before: at 2 * state + parity of the branch that leads there, the state before.
        unreachable: the sum of a state that no path has led to yet.
    """

    unreachable = 8 * GREATEST_COST + 1

    def __init__(self, state_bits: int) -> None:
        h0, h1 = _POLYNOMIALS[state_bits]
        self._states = 1 << state_bits
        states = np.arange(self._states)
        moves = [states >> 1 ^ (h0 >> 1) * (states & 1) ^ (h1 >> 1) * parity for parity in (0, 1)]
        self.following: NDArray[np.intp] = np.stack(moves, axis=1).ravel().astype(np.intp)
        # The lower half of the states is reached from even states, the upper from odd ones, because h0 has its top bit
        # and h1 does not. The previous state, halved, is the state within its half, with the bits of a mask flipped.
        half = self._states // 2
        turn = (h0 >> 1) % half
        self.turns = (0, h1 >> 1, turn, turn ^ h1 >> 1)
        self.before: NDArray[np.intp] = np.concatenate(
            [
                2 * np.stack([np.arange(half) ^ self.turns[2 * quantiser + parity] for parity in (0, 1)], axis=1)
                + quantiser
                for quantiser in (0, 1)
            ]
        ).ravel()

    def first(self, lanes: int) -> NDArray[np.intp]:
        """(lanes,) the initial state of each lane: all states in turn."""
        return np.arange(lanes) % self._states

    def cheapest(self, cell: NDArray[np.int32], costs: Cost, lanes: int) -> NDArray[np.uint8]:
        """(n,) the branch of each number on the cheapest path; number i is step i // lanes of lane i % lanes.

        `costs` are (4, cells), of a number in a cell in branch 2 * quantiser + parity, 0 to `GREATEST_COST`.
        """
        return compiled.search(cell, costs, lanes, self)


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
        bits = np.stack(quantisers.bits) * np.float32(price)
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

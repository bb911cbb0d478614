"""The weighted sum of flat float32 buffers without rounding, so that any grouping of the addends gives the same bits.

A float64 sum depends on the order of its additions in the last bit. Here the sum is kept in *limbs*, cut at fixed
places, the multiples of 32 in the exponents of two (Ahrens, Demmel and Nguyen, "Algorithms for Efficient Reproducible
Floating Point Summation", ACM TOMS 46, 2020, with places that do not depend on the data):

    x = sum_k q_k,    q_k a multiple of u_k = 2^(32 k),  |q_k| <= 2^31 u_k.

A weight is cut into whole numbers m < 2^16, times a power of two each. While the sum of all m since the last carry is
at most 2^21, every partial sum of m q_k is a whole number of u_k below 2^53, which float64 adds exactly, in any order
and with any linear algebra. Then limbs carry, also exactly. So the limbs are the sum itself, and sums of parts add up
to the sum of all. It is rounded once, where it is asked for, by a function of its value alone.

Cutting takes time and is seldom needed: addends whose lowest and highest bits are close enough, such as a coarse
codec's, add up exactly in plain float64. So each block of the sum has a float64 in front of its limbs, with the place
of its lowest bit and a bound, and only what would round is cut. Like `WeightedSum`, a few addends are held back and
summed block by block in the processor's cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from plait.adapters import Float32
from plait.adapters.partial_sum import Float64Array, PartialSum, carried, cut_up

_PIECE_BITS = 16
_MOST_PIECES = 1 << 21  # the sum of all m between two carries
_WHOLE = 2.0**53  # float64 has all whole numbers up to this
# Of float32.
_MANTISSA_BITS, _BIAS = 23, 127
# As for WeightedSum.
_BLOCK_ELEMENTS = 3 << 14
_HELD_BACK = 8


class ExactSum:
    """Sum of weight * values over all calls of `add` and `join`."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._limbs: dict[int, Float64Array] = {}
        self._front: Float64Array = np.zeros(size, np.float64)
        self._fronts = [_NOTHING] * -(-size // _BLOCK_ELEMENTS)
        self._wide: Float64Array = np.empty((_HELD_BACK, min(size, _BLOCK_ELEMENTS)), np.float64)
        self._spare: Float64Array = np.empty(min(size, _BLOCK_ELEMENTS), np.float64)
        self._waiting: list[tuple[Float32, int, int]] = []
        self._pieces = 0
        self.weight = 0.0

    def add(self, values: Float32, weight: float) -> None:
        """Add `weight` times `values`, (size,), which must not change until the sum is asked for."""
        self.weight += weight
        for piece, exponent in _pieces(weight):
            self._waiting.append((values, piece, exponent))
            if len(self._waiting) == _HELD_BACK:
                self._fold()

    def join(self, part: PartialSum) -> None:
        """Add a sum of other addends."""
        self.weight += part.weight
        self._settle()
        for place, limb in part.limbs.items():
            self._limb(place)[:] += limb
        self._carry()

    def part(self) -> PartialSum:
        """The sum, exact; what is added later does not change it."""
        self._settle()
        lowest, highest = min(self._limbs, default=0), max(self._limbs, default=0)
        return PartialSum({place: self._limb(place).copy() for place in range(lowest, highest + 1)}, self.weight)

    def mean(self) -> Float64Array:
        """The sum over the sum of weights, (size,).

        Raises:
            ValueError: nothing was added.
        """
        return np.divide(self._total(), self.weight)

    def mean32(self) -> Float32:
        """The same, rounded to float32.

        Raises:
            ValueError: nothing was added.
        """
        mean = np.empty(self._size, np.float32)
        return np.divide(self._total(), self.weight, out=mean, casting="same_kind")

    def _total(self) -> Float64Array:
        """As `PartialSum.total` rounds it."""
        if not self.weight:
            raise ValueError("no update was added")
        self._fold()
        if not self._limbs:
            # Nothing had to be cut: float64 has the sum, which no place could round.
            return self._front
        total = np.empty(self._size, np.float64)
        for _, block in self._blocks():
            # In the processor's cache; a total is the same whatever places its limbs were carried to.
            limbs = carried({place: limb[block].copy() for place, limb in self._limbs.items()})
            for place, cut in cut_up(self._front[block].copy()):
                limbs[place] = limbs[place] + cut if place in limbs else cut
            total[block] = PartialSum(carried(limbs), self.weight).total()
        return total

    def _limb(self, place: int) -> Float64Array:
        if place not in self._limbs:
            self._limbs[place] = np.zeros(self._size, np.float64)
        return self._limbs[place]

    def _blocks(self) -> Iterator[tuple[int, slice]]:
        for number, start in enumerate(range(0, self._size, _BLOCK_ELEMENTS)):
            yield number, slice(start, min(start + _BLOCK_ELEMENTS, self._size))

    def _fold(self) -> None:
        if not self._waiting:
            return
        pieces = np.array([piece for _, piece, _ in self._waiting], np.float64)
        # At most one piece more than these goes into a limb: what the front held.
        coming = int(pieces.sum()) + 1
        if self._pieces + coming > _MOST_PIECES:
            self._carry()
        self._pieces += coming
        for number, block in self._blocks():
            wide = self._wide[: len(self._waiting), : block.stop - block.start]
            added = own = _NOTHING
            measured: Float32 | None = None
            for row, (values, piece, exponent) in enumerate(self._waiting):
                wide[row] = values[block]
                if exponent:
                    wide[row] *= 2.0**exponent
                # A weight of several pieces comes with the same values in a row.
                if values is not measured:
                    own, measured = _Extent.of(values[block]), values
                added = added.plus(own.times(piece, exponent))
            self._take(number, block, wide, pieces, added)
        self._waiting.clear()

    def _take(self, number: int, block: slice, wide: Float64Array, pieces: Float64Array, added: _Extent) -> None:
        """Add the rows of one block; may change them."""
        both = self._fronts[number].plus(added)
        if both.is_exact:
            self._front[block] += pieces @ wide
            self._fronts[number] = both
            return
        self._cut(self._front[block], 1.0, block)
        self._front[block] = 0.0
        self._fronts[number] = _NOTHING
        if added.is_exact:
            self._front[block] += pieces @ wide
            self._fronts[number] = added
            return
        for row, piece in zip(wide, pieces, strict=True):
            self._cut(row, float(piece), block)

    def _cut(self, values: Float64Array, piece: float, block: slice) -> None:
        """Add `piece` times `values`, of one block, to the limbs; changes them."""
        for place, cut in cut_up(values, into=self._spare[: len(values)]):
            if piece != 1:
                np.multiply(cut, piece, out=cut)
            limb = self._limb(place)[block]
            limb += cut

    def _settle(self) -> None:
        """Leave everything in limbs, in the form that a `PartialSum` has."""
        self._fold()
        self._carry()
        for number, block in self._blocks():
            self._cut(self._front[block], 1.0, block)
            self._front[block] = 0.0
            self._fronts[number] = _NOTHING
        self._carry()

    def _carry(self) -> None:
        self._pieces = 0
        carried(self._limbs)


@dataclass(frozen=True)
class _Extent:
    """Of numbers and their sums in any order: the exponent of a common unit, and what no sum exceeds."""

    unit: int
    most: float

    @classmethod
    def of(cls, values: Float32) -> _Extent:
        """Of single float32 numbers."""
        sizes = values.view(np.uint32) & np.uint32(0x7FFFFFFF)
        largest = int(sizes.max(initial=0))
        if not largest:
            return _NOTHING
        # Zeros become the largest of all.
        sizes -= np.uint32(1)
        exponent = (int(sizes.min()) + 1) >> _MANTISSA_BITS
        most = math.ldexp(1.0, (largest >> _MANTISSA_BITS) - _BIAS + 1)
        return cls(max(exponent, 1) - _BIAS - _MANTISSA_BITS, most)

    def times(self, piece: int, exponent: int) -> _Extent:
        """Of the same, times `piece` 2^`exponent`."""
        return _Extent(self.unit + exponent, math.ldexp(self.most * piece, exponent)) if self.most else self

    def plus(self, other: _Extent) -> _Extent:
        """Of both together."""
        return _Extent(min(self.unit, other.unit), self.most + other.most)

    @property
    def is_exact(self) -> bool:
        """Whether float64 holds all these sums."""
        return math.ldexp(self.most, -self.unit) <= _WHOLE if self.most else True


_NOTHING = _Extent(1 << 16, 0.0)


def _pieces(weight: float) -> Iterator[tuple[int, int]]:
    """Whole numbers m < 2^16 and exponents e with `weight` = sum of m 2^e."""
    number, divisor = weight.as_integer_ratio()
    exponent = 1 - divisor.bit_length()
    while number:
        if piece := number & ((1 << _PIECE_BITS) - 1):
            yield piece, exponent
        number >>= _PIECE_BITS
        exponent += _PIECE_BITS

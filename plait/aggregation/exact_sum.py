"""The weighted sum of flat float32 buffers without rounding, so that any grouping of the addends gives the same bits.

A float64 sum depends on the order of its additions in the last bit. Here the sum is kept in *limbs*, cut at fixed
places, the multiples of 32 in the exponents of two (Ahrens, Demmel and Nguyen, "Algorithms for Efficient Reproducible
Floating Point Summation", ACM TOMS 46, 2020, with places that do not depend on the data):

    x = sum_k q_k,    q_k a multiple of u_k = 2^(32 k),  |q_k| <= 2^31 u_k.

A weight is cut into whole numbers m < 2^16, times a power of two each. While the sum of all m since the last carry is
at most 2^21, every partial sum of m q_k is a whole number of u_k below 2^53, which float64 adds exactly, in any order
and with any linear algebra. Then limbs carry, also exactly. So the limbs are the sum itself, and sums of parts add up
to the sum of all. It is rounded once, where it is asked for, by a function of its value alone.

Like `WeightedSum`, a few addends are held back and summed block by block in the processor's cache, in compiled code
(`exact_sum.cpp`) where there is a compiler; it cuts only what float64 would round.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from plait.adapters import Float32
from plait.adapters.partial_sum import Float64Array, PartialSum, carried, cut_up
from plait.compiler import INTEGER, POINTER, addresses, built_functions

SOURCES = ("exact_sum.cpp",)
_P, _I = POINTER, INTEGER
_FUNCTIONS = {
    "exact_add": (_P, _P, _P, _I, _I, _I, _P, _P, _P, _P, _I, _I, _I, _P),
    "exact_total": (_P, _I, _I, _I, _P),
}
_PIECE_BITS = 16
_MOST_ADDENDS = 1 << 21  # between two carries
_BLOCK_ELEMENTS = 1 << 12
_HELD_BACK = 8

_Addend: TypeAlias = tuple[Float32, int, int]
"""Numbers, to be multiplied by a whole number times a power of two."""


@cache
def library() -> ctypes.CDLL | None:
    """The compiled code; None where it cannot be built."""
    return built_functions(Path(__file__).parent, SOURCES, _FUNCTIONS)


class ExactSum:
    """Sum of weight * values over all calls of `add` and `join`."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._limbs: dict[int, Float64Array] = {}
        # What compiled code has not cut yet, and the exponent of the unit and a bound of each block of it.
        blocks = -(-size // _BLOCK_ELEMENTS)
        self._front: Float64Array = np.zeros(size if library() else 0)
        self._units, self._mosts = np.zeros(blocks, np.int64), np.zeros(blocks)
        self._waiting: list[_Addend] = []
        self._addends = 0
        self.weight = 0.0

    def add(self, values: Float32, weight: float) -> None:
        """Add `weight` times `values`, (size,), which must not change until the sum is asked for."""
        self.weight += weight
        for piece, exponent in _pieces(weight):
            self._waiting.append((np.ascontiguousarray(values), piece, exponent))
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
        if (built := library()) is None:
            self._carry()
            return PartialSum(self._limbs or {0: self._limb(0)}, self.weight).total()
        if not self._limbs:
            # Nothing had to be cut: float64 has the sum, which no place could round.
            return self._front
        self._take(())
        total, (limbs, lowest) = np.empty(self._size), self._in_order()
        built.exact_total(*addresses(limbs), lowest, limbs.size, self._size, *addresses(total))
        self._addends = 0
        return total

    def _limb(self, place: int) -> Float64Array:
        if place not in self._limbs:
            self._limbs[place] = np.zeros(self._size, np.float64)
        return self._limbs[place]

    def _in_order(self) -> tuple[NDArray[np.intp], int]:
        """The addresses of the limbs, from the lowest place on, and that place."""
        lowest = min(self._limbs, default=0)
        places = range(lowest, max(self._limbs, default=lowest - 1) + 1)
        return np.array(addresses(*map(self._limb, places)), np.intp), lowest

    def _fold(self) -> None:
        if self._waiting:
            self._take(self._waiting)
            self._waiting.clear()

    def _take(self, addends: Sequence[_Addend]) -> None:
        """Add them; with none, cut all that is not cut yet."""
        if self._addends + len(addends) >= _MOST_ADDENDS:
            self._carry()
        self._addends += len(addends) + 1
        if (built := library()) is None:
            for values, piece, exponent in addends:
                for place, cut in cut_up(np.multiply(values, piece * 2.0**exponent, dtype=np.float64)):
                    self._limb(place)[:] += cut
            return
        rows = np.array(addresses(*(values for values, _, _ in addends)), np.intp)
        pieces, exponents = np.array([addend[1:] for addend in addends], np.int64).reshape(-1, 2).T.copy()
        needed, first = np.zeros(2, np.int64), 0
        while True:
            limbs, lowest = self._in_order()
            first = built.exact_add(
                *addresses(rows, pieces, exponents), len(addends), self._size, _BLOCK_ELEMENTS,
                *addresses(self._front, self._units, self._mosts, limbs), lowest, limbs.size, first, *addresses(needed),
            )  # fmt: skip
            if first < 0:
                return
            for place in needed.tolist():
                self._limb(place)

    def _settle(self) -> None:
        """Leave everything in limbs, in the form that a `PartialSum` has."""
        self._fold()
        self._take(())
        self._carry()

    def _carry(self) -> None:
        self._addends = 0
        carried(self._limbs)


def _pieces(weight: float) -> Iterator[tuple[int, int]]:
    """Whole numbers m < 2^16 and exponents e with `weight` = sum of m 2^e."""
    number, divisor = weight.as_integer_ratio()
    exponent = 1 - divisor.bit_length()
    while number:
        if piece := number & ((1 << _PIECE_BITS) - 1):
            yield piece, exponent
        number >>= _PIECE_BITS
        exponent += _PIECE_BITS

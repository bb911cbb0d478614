"""The discrete Gaussian around any fraction of a whole number, drawn exactly from a secret key.

N_Z(c, sigma^2) takes the whole number k with probability exp(-(k - c)^2 / (2 sigma^2)) / Theta(c). Drawing around the
number to be hidden, instead of rounding it first and adding noise, costs no length of rounding: what a client hides may
lie between the whole numbers, so the grid can be as coarse as the noise itself.

Without rejection, like the central noise (`noise`): one uniform number of 64 bits decides a draw by a
table of tail probabilities, one row for each fraction. Draws on the edge of two entries, about one in 10^12, take
further bits and digits, so nothing is cut off and nothing need be added to delta. Knows no client.
"""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from plait.features.privacy.noise import BLOCK, Guide, Integers, Keystream, Words

MOST_FRACTION_BITS = 12
# Of a draw's 63 bits below the one that says on which side of the centre it lies.
_PREFIX_BITS = 50
_GUIDE_BITS = 7
_ROW = np.uint64(_PREFIX_BITS)
# Far above the error of the C library's exp, and of the sums of a few hundred of its results.
_GUARD = 2.0**-40
_REACH = 9.5
_DIGITS = 60


class DiscreteGaussian:
    """N_Z(c, variance) for all c that are multiples of 2^-fraction_bits.

    Args:
        variance: sigma^2, at least 1.
        fraction_bits: at most 12.
    """

    def __init__(self, variance: float, fraction_bits: int) -> None:
        self.variance, self.fraction_bits = variance, fraction_bits
        rows = (1 << fraction_bits) + 1
        reach = _reach(variance)
        # (rows, columns): P(X <= j) for the centre row / 2^bits and j from -reach on, as far as it is below a half.
        places = np.arange(-reach, reach + 2, dtype=np.float64)
        centres = np.arange(rows, dtype=np.float64)[:, None] / (rows - 1)
        density = np.exp(-((places - centres) ** 2) / (2 * variance))
        tails = np.cumsum(density, axis=1)
        tails /= tails[:, -1:]
        self._lowest = -reach
        columns = reach + 1  # j = 0 may be below a half, j = 1 never is.
        # Doubled: the first bit of a draw has said that it is in the lower half.
        below = np.minimum(2 * tails[:, :columns], 1.0)
        scale = 2.0**_PREFIX_BITS
        row = np.arange(rows, dtype=np.uint64)[:, None] << _ROW
        # No draw is above a whole one, which is where the next row begins.
        whole = np.uint64(1 << _PREFIX_BITS)
        low = np.floor(below * (1 - _GUARD) * scale).astype(np.uint64)
        high = np.minimum(np.ceil(below * (1 + _GUARD) * scale).astype(np.uint64), whole)
        self._columns = columns
        self._surely_below: Words = np.append((row + low).reshape(-1), np.uint64(2**64 - 1))
        self._surely_above: Words = (row + high).reshape(-1)
        self._guide = Guide(self._surely_above, shift=_PREFIX_BITS - _GUIDE_BITS, parts=rows << _GUIDE_BITS)

    def draw(self, stream: Keystream, centres: NDArray[np.int64] | NDArray[np.int32]) -> Integers:
        """One number around each centre, which are in units of 2^-fraction_bits."""
        parts = [self._draw(stream, centres[at : at + BLOCK]) for at in range(0, centres.size, BLOCK)]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def _draw(self, stream: Keystream, centres: NDArray[np.int64] | NDArray[np.int32]) -> Integers:
        words = stream.words(centres.size)
        whole, rest = np.divmod(centres.astype(np.int64), 1 << self.fraction_bits)
        is_upper = (words >> np.uint64(63)).astype(bool)
        # The upper half around c is the lower one around 1 - c, seen from above.
        rows = np.where(is_upper, (1 << self.fraction_bits) - rest, rest).astype(np.uint64)
        drawn = words & np.uint64((1 << 63) - 1)
        keys = (rows << _ROW) | (drawn >> np.uint64(63 - _PREFIX_BITS))
        found = self._guide.at_most(keys)
        unsure = np.flatnonzero(keys >= self._surely_below[found])
        below: Integers = found - rows.astype(np.int64) * self._columns + self._lowest
        for index in unsure:
            below[index] = self._resolved(int(drawn[index]), int(rows[index]), stream)
        return whole + np.where(is_upper, 1 - below, below)

    def _resolved(self, drawn: int, row: int, stream: Keystream) -> int:
        """The smallest j with f < 2 P(X <= j), exactly.

        Args:
            drawn: the first 63 bits of f.
            stream: of further bits.
        """
        bits = 63
        with localcontext() as context:
            context.prec = _DIGITS
            while True:
                low, high = Decimal(drawn) / (1 << bits), Decimal(drawn + 1) / (1 << bits)
                for place, tail in enumerate(_tails(self.variance, Decimal(row) / (1 << self.fraction_bits))):
                    if low < 2 * tail:
                        if high <= 2 * tail:
                            return place - _far(self.variance)
                        break
                drawn, bits = drawn << 64 | int(stream.words(1)[0]), bits + 64


@lru_cache(maxsize=4)
def discrete_gaussian(variance: float, fraction_bits: int) -> DiscreteGaussian:
    """The distribution, with its table kept for the next rounds."""
    return DiscreteGaussian(variance, fraction_bits)


def entries_of(variance: float, fraction_bits: int) -> int:
    """How large the table of such a distribution is, in numbers of 64 bits."""
    return ((1 << fraction_bits) + 1) * (_reach(variance) + 1)


def _reach(variance: float) -> int:
    """How far from the centre the table reaches."""
    return math.ceil(_REACH * math.sqrt(variance)) + 1


def _far(variance: float) -> int:
    """How far from the centre nothing is left to 60 digits."""
    return math.ceil(18 * math.sqrt(variance)) + 2


def _tails(variance: float, centre: Decimal) -> list[Decimal]:
    """P(X <= j) for all j from -_far on, to about 60 digits."""
    far, spread = _far(variance), 2 * Decimal(variance)
    densities = [(-((place - centre) ** 2) / spread).exp() for place in range(-far, far + 2)]
    total, so_far = sum(densities), Decimal(0)
    return [(so_far := so_far + each) / total for each in densities]

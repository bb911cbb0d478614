"""Gaussian noise on whole numbers, drawn exactly from a secret key.

What is added is round(G) with G ~ N(0, sigma^2), element by element. For a vector of whole numbers x, x + round(G)
equals round(x + G): a function of the exact Gaussian mechanism's result. So its privacy is that mechanism's, in
closed form and in any number of dimensions. (For the discrete Gaussian of Canonne, Kamath and Steinke, arXiv
2004.00010, the closed form holds only nearly, and what holds exactly is a Renyi bound, which reads 8 % higher.)

Drawn without rejection and without floating-point error, because rounded floats and their timing give secrets away
(Mironov 2012; Jin et al., arXiv 2112.05307): |X| > k if and only if a uniform number f is below t_k = erfc((k + 1/2)
/ (sigma sqrt 2)). 63 bits of f and a table of t_k decide all but about one in 10^9 draws; the others take further
bits and t_k to 100 digits. So nothing is cut off and nothing need be added to delta, and the numbers do not depend on
the machine's mathematical library. All bits come from AES-256 in counter mode. Knows no round and no file.
"""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

Integers: TypeAlias = NDArray[np.int64]
Words: TypeAlias = NDArray[np.uint64]

BLOCK = 1 << 16
"""Numbers drawn at once: their arrays fit the processor's cache."""

_BITS = 63
_UNIT = 2.0**_BITS
# Far above the error of the C library's erfc.
_GUARD = 2.0**-44
# Beyond this multiple of sigma t_k is below one unit.
_REACH = 9.3
_GUIDE_BITS = 18
_DIGITS = 110
_PI = Decimal(
    "3.1415926535897932384626433832795028841971693993751058209749445923078164062862089986280348253421170679821480865132823"
)


class Keystream:
    """Uniform bits, all from one key; two streams of the same key are the same.

    Args:
        key: 32 bytes, secret.
    """

    def __init__(self, key: bytes) -> None:
        self._cipher = Cipher(AES(key), CTR(bytes(16))).encryptor()

    def words(self, count: int) -> Words:
        """The next `count` numbers, uniform over 64 bits."""
        return np.frombuffer(self._cipher.update(bytes(8 * count)), "<u8")

    def halves(self, count: int) -> NDArray[np.uint32]:
        """The next `count` numbers, uniform over 32 bits."""
        return np.frombuffer(self._cipher.update(bytes(4 * count)), "<u4")


class Guide:
    """Searches a sorted table; the leading bits of a number make most searches one look-up.

    Args:
        shift: lower bits of a number, which the guide does not look at.
        parts: how many values the bits above those have.
    """

    def __init__(self, table: Words, *, shift: int, parts: int) -> None:
        self._table, self._shift = table, np.uint64(shift)
        edges = np.arange(parts + 1, dtype=np.uint64) << self._shift
        found = np.searchsorted(table, edges, side="left").astype(np.int32)
        self._guide, self._within = found[:-1], np.minimum(np.diff(found), 2).astype(np.int8)

    def at_most(self, numbers: Words) -> NDArray[np.int32]:
        """How many entries of the table are at most each number."""
        part = (numbers >> self._shift).astype(np.int32)
        found, within = self._guide[part], self._within[part]
        one = np.flatnonzero(within == 1)
        found[one] += numbers[one] >= self._table[found[one]]
        several = np.flatnonzero(within == 2)
        found[several] = np.searchsorted(self._table, numbers[several], side="right")
        return found


class IntegerGaussian:
    """The distribution of round(G), G ~ N(0, sigma^2).

    Args:
        sigma: more than 0.
    """

    def __init__(self, sigma: float) -> None:
        self.sigma = sigma
        count = math.ceil(_REACH * sigma) + 2
        scale = 1 / (sigma * math.sqrt(2))
        tails = np.array([math.erfc((k + 0.5) * scale) for k in range(count)])[::-1]
        # Below `_sure_above` f is less than t_k for certain; from `_sure_below` on it is not.
        self._sure_above: Words = np.floor(tails * (1 - _GUARD) * _UNIT).astype(np.uint64)
        self._sure_below: Words = np.ceil(tails * (1 + _GUARD) * _UNIT).astype(np.uint64)
        self._guide = Guide(self._sure_above, shift=_BITS - _GUIDE_BITS, parts=1 << _GUIDE_BITS)

    def draw(self, stream: Keystream, count: int) -> Integers:
        """`count` independent numbers, (count,)."""
        parts = [self._draw(stream, min(BLOCK, count - at)) for at in range(0, count, BLOCK)]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def _draw(self, stream: Keystream, count: int) -> Integers:
        words = stream.words(count)
        drawn = words & np.uint64((1 << _BITS) - 1)
        not_above = self._guide.at_most(drawn)
        size: Integers = (len(self._sure_above) - not_above).astype(np.int64)
        unsure = (not_above == 0) | (drawn < self._sure_below[not_above - 1])
        for index in np.flatnonzero(unsure):
            size[index] = self._resolved(int(drawn[index]), int(size[index]), stream)
        return np.where(words >> np.uint64(_BITS), -size, size)

    def _resolved(self, drawn: int, guess: int, stream: Keystream) -> int:
        """The number of k with f < t_k, exactly.

        Args:
            drawn: the first 63 bits of f.
            stream: of further bits.
        """
        bits = _BITS
        with localcontext() as context:
            context.prec = _DIGITS
            while True:
                unit = Decimal(1) / (1 << bits)
                low, high = drawn * unit, (drawn + 1) * unit
                if drawn:
                    while tail(guess, self.sigma) > low:
                        guess += 1
                    while guess and tail(guess - 1, self.sigma) <= low:
                        guess -= 1
                    if not guess or tail(guess - 1, self.sigma) >= high:
                        return guess
                drawn, bits = drawn << 64 | int(stream.words(1)[0]), bits + 64


@lru_cache(maxsize=2)
def gaussian(sigma: float) -> IntegerGaussian:
    """The distribution, with its table kept for the next rounds."""
    return IntegerGaussian(sigma)


def tail(k: int, sigma: float) -> Decimal:
    """P(|X| > k) = erfc((k + 1/2) / (sigma sqrt 2)), to about 100 decimal places.

    By erf(x / sqrt 2) = sqrt(2 / pi) exp(-x^2 / 2) (x + x^3/3 + x^5/15 + ...), all of whose terms are positive
    (Abramowitz and Stegun, 7.1.6).
    """
    with localcontext() as context:
        context.prec = _DIGITS
        x = (Decimal(k) + Decimal("0.5")) / Decimal(sigma)
        square, term, total, odd = x * x, x, x, 3
        while term > total.scaleb(-_DIGITS):
            term = term * square / odd
            total, odd = total + term, odd + 2
        return 1 - (2 / _PI).sqrt() * (-square / 2).exp() * total

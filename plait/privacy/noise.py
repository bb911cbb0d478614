"""Noise on whole numbers, drawn exactly from a secret key, and how a round's noise is bound to its updates.

A round's key is HKDF(run key, round, digest of the accepted updates), so that the same updates get the same noise and
others an independent one. The server adds round(G), G ~ N(0, sigma^2); clients draw N_Z(c, sigma^2) around what they
hide. Neither draw rejects or rounds a float (Mironov 2012; Jin et al., arXiv 2112.05307): docs/concepts/noise.md.
"""

import hashlib
import hmac
import math
import secrets
from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from functools import lru_cache
from pathlib import Path
from typing import Self, TypeAlias

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from plait.errors import ConfigError
from plait.trust.keys import read_secret, write_secret

_BYTES = 32


@dataclass(frozen=True)
class RunKey:
    """The key of one run: 32 bytes from the system's generator, never derived from a run's seed."""

    secret: bytes = field(repr=False)

    @classmethod
    def create(cls, path: Path) -> Self:
        """A new key, durably in a file of mode 0600; that of a run killed before its first event is kept."""
        if path.exists():
            return cls.load(path)
        key = cls(secrets.token_bytes(_BYTES))
        write_secret(path, key.secret.hex().encode() + b"\n")
        return key

    @classmethod
    def load(cls, path: Path) -> Self:
        """The key in a file."""
        if not path.exists():
            raise ConfigError(
                f"'{path}' is missing: without its noise key the run can neither go on nor be "
                "recomputed; restore it, or begin a new run"
            )
        try:
            secret = bytes.fromhex(read_secret(path).decode("ascii").strip())
        except ValueError:
            secret = b""
        if len(secret) != _BYTES:
            raise ConfigError(f"'{path}' holds no noise key, expected {2 * _BYTES} hexadecimal digits: restore it")
        return cls(secret)

    @property
    def check(self) -> str:
        """The ledger's commitment to the key, so that it cannot be exchanged later; reveals nothing of it."""
        return self._mac(b"key")

    def commitment(self, number: int, digest: bytes) -> str:
        """The ledger's commitment to the updates of a round.

        Without the key a guess of an update cannot be tested against it, as a plain digest would allow.
        """
        return self._mac(b"updates", number, digest)

    def for_round(self, number: int, digest: bytes) -> bytes:
        """The key of a round's noise, 32 bytes."""
        return derived(self.secret, _text(b"noise", number, digest))

    def _mac(self, *parts: bytes | int) -> str:
        return hmac.new(self.secret, _text(*parts), hashlib.sha256).hexdigest()


def derived(key: bytes, purpose: bytes) -> bytes:
    """Another key of 32 bytes, for one purpose."""
    return HKDF(SHA256(), _BYTES, salt=b"plait differential privacy 1", info=purpose).derive(key)


def _text(*parts: bytes | int) -> bytes:
    """The parts, so that no two lists of them are the same text."""
    encoded = (part.to_bytes(8, "little") if isinstance(part, int) else part for part in parts)
    return b"".join(len(part).to_bytes(8, "little") + part for part in encoded)


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
    """Uniform bits, all from one secret key of 32 bytes; two streams of the same key are the same."""

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

    The guide does not look at `shift` lower bits; the bits above those have so many values as it has `parts`.
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
    """The distribution of round(G), G ~ N(0, sigma^2)."""

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
        """The number of k with f < t_k, exactly, where the first 63 bits of f are drawn."""
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


MOST_FRACTION_BITS = 12
# Of a draw's 63 bits below the one for its side of the centre.
_PREFIX_BITS = 50
_ROW_GUIDE_BITS = 7
_ROW = np.uint64(_PREFIX_BITS)
# Far above the error of the C library's exp, and of the sums of a few hundred of its results.
_ROW_GUARD = 2.0**-40
_ROW_REACH = 9.5
_ROW_DIGITS = 60


class DiscreteGaussian:
    """N_Z(c, variance) for all c that are multiples of 2^-fraction_bits; variance at least 1, at most 12 bits."""

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
        # Doubled: the first bit of a draw puts it in the lower half.
        below = np.minimum(2 * tails[:, :columns], 1.0)
        scale = 2.0**_PREFIX_BITS
        row = np.arange(rows, dtype=np.uint64)[:, None] << _ROW
        # No draw is above a whole one, which is where the next row begins.
        whole = np.uint64(1 << _PREFIX_BITS)
        low = np.floor(below * (1 - _ROW_GUARD) * scale).astype(np.uint64)
        high = np.minimum(np.ceil(below * (1 + _ROW_GUARD) * scale).astype(np.uint64), whole)
        self._columns = columns
        self._surely_below: Words = np.append((row + low).reshape(-1), np.uint64(2**64 - 1))
        self._surely_above: Words = (row + high).reshape(-1)
        self._guide = Guide(self._surely_above, shift=_PREFIX_BITS - _ROW_GUIDE_BITS, parts=rows << _ROW_GUIDE_BITS)

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
        """The smallest j with f < 2 P(X <= j), exactly, where the first 63 bits of f are drawn."""
        bits = 63
        with localcontext() as context:
            context.prec = _ROW_DIGITS
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
    return math.ceil(_ROW_REACH * math.sqrt(variance)) + 1


def _far(variance: float) -> int:
    """How far from the centre nothing is left to 60 digits."""
    return math.ceil(18 * math.sqrt(variance)) + 2


def _tails(variance: float, centre: Decimal) -> list[Decimal]:
    """P(X <= j) for all j from -_far on, to about 60 digits."""
    far, spread = _far(variance), 2 * Decimal(variance)
    densities = [(-((place - centre) ** 2) / spread).exp() for place in range(-far, far + 2)]
    total, so_far = sum(densities), Decimal(0)
    return [(so_far := so_far + each) / total for each in densities]

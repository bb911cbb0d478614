"""From a client's update to whole numbers whose sum fits the ring, and from their sum back to a mean.

x = R w / unit, rounded at random, so that the mean of the result is x. R is the randomised Hadamard transform (Suresh
et al., arXiv 1611.00429, section 4) in blocks of 4,096 numbers. The unit follows from how long updates are and how far
they agree, as earlier sums showed (`unit_for`): a sum is to fit the ring at `_DEVIATIONS` deviations, which are between
sqrt(n) and n times a client's. A client sends no vector longer than `most_square`; error feedback keeps what is cut.
Stated norms count only as far as they fit the norm of the mean (`length_expected`), and a sum beyond the ring is
refused (`check_sum`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from plait.adapters import AdapterState, Float32, Layout
from plait.aggregation.geometry import gathered, scattered, size_of
from plait.errors import PeerError
from plait.privacy.mechanism import ClientPrivacy, length
from plait.privacy.noise import Keystream, derived
from plait.trust.masks import Ring
from plait.wire.masked_roster import joined

_SIDE = 64
_BLOCK = _SIDE * _SIDE
_LEAST_SIDE = 8


def rotated_size(size: int) -> int:
    """Numbers of a rotated vector: `size`, filled up to whole blocks."""
    side = _side_for(size)
    return -(-size // side**2) * side**2


def _side_for(size: int) -> int:
    # Small vectors have small blocks: what is filled up with zeros is sent too.
    return _SIDE if size >= 8 * _BLOCK else _LEAST_SIDE


class Rotation:
    """A rotation of vectors of one size, whose public seed decides the signs."""

    def __init__(self, size: int, seed: bytes) -> None:
        self._side, self.size, self.rotated_size = _side_for(size), size, rotated_size(size)
        self._columns = self.rotated_size // self._side**2
        stream = Keystream(hashlib.sha256(b"plait rotation 1" + seed).digest())
        bits = np.unpackbits(stream.words(self.rotated_size // 64 + 1).view(np.uint8))
        self._signs: Float32 = bits[: self.rotated_size].astype(np.float32) * 2 - 1

    def forward(self, vector: Float32) -> Float32:
        """(size,) to (rotated_size,), of the same length."""
        padded = np.zeros(self.rotated_size, np.float32)
        padded[: self.size] = vector
        return self._transformed(padded * self._signs)

    def backward(self, rotated: Float32) -> Float32:
        """(rotated_size,) to (size,): the inverse."""
        return (self._transformed(rotated) * self._signs)[: self.size]

    def _transformed(self, flat: Float32) -> Float32:
        side, matrix = self._side, _hadamard(self._side)
        # H of 4,096 is the Kronecker product of H of 64 with itself.
        once = (matrix @ flat.reshape(side, side * self._columns)).reshape(side, side, self._columns)
        return np.matmul(matrix, once).reshape(-1)


def _hadamard(side: int) -> Float32:
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < side:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return (matrix / np.float32(np.sqrt(side))).astype(np.float32)


_DEVIATIONS = 4.0
_HEADROOM = 1.5
"""How much longer updates, and their agreement, may be than in the round before."""
_MOST_APART = 4.0
"""How many times as long the mean of the next round may be expected, whatever lengths clients state."""
_MOST_FILLED = 1.75
"""How far the deviation of a sum's numbers may exceed what the unit was chosen for; 2.3 is that of a full ring."""
_FEW, _MANY = 16, 128


def bits_for(clients: int) -> int:
    """Bits for each number in a round of this many clients."""
    return 6 if clients <= _FEW else 7 if clients <= _MANY else 8


@dataclass(frozen=True)
class Coding:
    """The grid of one round."""

    ring: Ring
    clients: int
    unit: float

    def most_square(self, size: int) -> float:
        """The most that the square of a client's vector of `size` whole numbers may be."""
        return size * (_most(self.ring, self.clients) ** 2 / self.clients + 0.25)

    def encode(self, rotation: Rotation, wanted: Float32, *, key: bytes) -> NDArray[np.int32]:
        """Whole numbers, (rotation.rotated_size,), whose expectation is `wanted`, cut to the longest that may be sent.

        The same 32 bytes of `key` and the same numbers, (rotation.size,) and finite, give the same rounding.
        """
        x = rotation.forward(wanted) / np.float32(self.unit)
        most = self.most_square(x.size)
        square = float(np.dot(x, x))
        if square > most:
            x *= np.float32(math.sqrt(most / square))
        noise = Keystream(key)
        while True:
            uniform = noise.halves(x.size) >> np.uint32(8)
            drawn = np.floor(x + uniform.astype(np.float32) * np.float32(2.0**-24)).astype(np.int32)
            # Checked on the very numbers that are summed.
            square = int(np.dot(drawn.astype(np.int64), drawn.astype(np.int64)))
            if square <= most:
                return drawn
            x *= np.float32(math.sqrt(most / square) * 0.999)

    def decode(self, rotation: Rotation, numbers: NDArray[np.int32]) -> Float32:
        """The inverse of `encode`, of a client's numbers or of a sum, (rotation.size,)."""
        return rotation.backward(numbers.astype(np.float32) * np.float32(self.unit))


def unit_for(ring: Ring, *, clients: int, size: int, length: float) -> float:
    """The unit for updates of `size` numbers."""
    return max(_HEADROOM * length, 1e-30) * clients / (math.sqrt(size) * _most(ring, clients))


def length_expected(*, mean: float, rms: float, clients: int) -> float:
    """How long the mean of a round's updates may be, from the last round's; at most `_MOST_APART` times as much.

    Args:
        rms: root mean square of its updates' norms as clients state it; the mean is as long where they agree entirely.
    """
    rms = min(max(rms, mean), _MOST_APART * mean * math.sqrt(clients))
    return min(rms, max(_HEADROOM * mean, rms / math.sqrt(clients)))


def check_sum(ring: Ring, deviation: float) -> None:
    """Refuse a sum that has left the ring: that of clients within their bounds fits with `_DEVIATIONS` to spare."""
    most = _MOST_FILLED * (1 << (ring.bits - 1)) / _DEVIATIONS
    if deviation > most:
        raise PeerError(
            f"the numbers of the sum have a deviation of {deviation:.3g} in a ring that holds {most:.3g}, which "
            "clients within their bounds do not reach: one of them departs from the protocol, and masks hide which"
        )


def _most(ring: Ring, clients: int) -> float:
    """The largest standard deviation of a sum's numbers, in units, before rounding."""
    most = (1 << (ring.bits - 1)) / _DEVIATIONS
    return math.sqrt(max(most**2 - clients / 4, most**2 / 4))


@dataclass(frozen=True)
class MaskedGrid:
    """The grid of a round over the parts of a delta that clients send; `received` is the digest of where it starts.

    A client's has the `key` of its rounding.
    """

    coding: Coding
    parts: tuple[slice, ...]
    received: bytes
    round: int
    key: bytes = field(default=b"", repr=False)

    @cached_property
    def rotation(self) -> Rotation:
        """Of the round: the same in every attempt, so that a round asked for again has the same numbers."""
        return Rotation(size_of(self.parts), joined(self.received, self.round.to_bytes(8, "big")))

    def encode(self, delta: AdapterState, *, key: bytes) -> NDArray[np.int32]:
        """The whole numbers of a client's delta, (rotation.rotated_size,), rounded by a secret key."""
        return self.coding.encode(self.rotation, gathered(delta, self.parts), key=key)

    def rounded(self, delta: AdapterState) -> tuple[NDArray[np.int32], AdapterState]:
        """The numbers of a delta, and what they decode to."""
        numbers = self.encode(delta, key=self.key)
        return numbers, self.decode(numbers, delta.layout)

    def noised(
        self, delta: AdapterState, privacy: ClientPrivacy, *, survivors: int, key_of: Callable[[bytes], bytes]
    ) -> tuple[NDArray[np.int64], int]:
        """The whole numbers of a client's clipped delta with its share of the noise, (rotation.rotated_size,).

        And for an adaptive clip norm a noised count of it within that, else 0. `key_of` gives the key of the noise.
        """
        rotated = self.rotation.forward(gathered(delta, self.parts))
        key = key_of(hashlib.sha256(rotated.tobytes() + survivors.to_bytes(4, "big")).digest())
        shares, unit = privacy.shares(rotated.size), self.coding.unit
        numbers = shares.drawn(rotated, unit=unit, guaranteed=survivors, key=derived(key, b"update"))
        counting = privacy.count_shares
        if counting is None:
            return numbers, 0
        is_within = length(rotated) <= unit * shares.sensitivity
        centre = np.array([counting.radius if is_within else -counting.radius])
        (counted,) = counting.around(centre, guaranteed=survivors, key=derived(key, b"count"))
        return numbers, int(counted)

    def decode(self, numbers: NDArray[np.int32], layout: Layout, *, clients: int = 1) -> AdapterState:
        """The delta of a client's numbers, or the mean of a sum of `clients`."""
        values = self.coding.decode(self.rotation, numbers) / np.float32(clients)
        return scattered(values, self.parts, layout)

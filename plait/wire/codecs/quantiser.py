"""The two quantisers of one group of numbers: the positions of their points, and their probabilities.

Point k of quantiser q is at sign(k) · (2 |k| - q) steps, minus a shift that moves it to the centroid of the numbers
that it represents. Knows no trellis and no payload.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from plait.adapters.state import Float32
from plait.errors import PeerError
from plait.wire.codecs.symbols import PRECISION, fit, frequencies, knots

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

    def frequencies(self, quantiser: int) -> NDArray[np.int64]:
        """(2 largest + 1,) frequencies of -largest … largest; they sum to 2**24."""
        return self._frequencies[quantiser]

    def bits(self, quantiser: int) -> Float32:
        """(2 largest + 1,) length of each index in bits."""
        return self._bits[quantiser]

    def points(self, quantiser: int) -> Float32:
        """(2 largest + 1,) positions of -largest … largest, in steps; exact in float32."""
        k = np.arange(-self.largest, self.largest + 1)
        shift = np.concatenate([[0], self.shifts[quantiser]])[np.minimum(np.abs(k), _SHIFTED)] / _SHIFT_UNIT
        return (2 * k - np.sign(k) * (quantiser + shift)).astype(np.float32)

    @cached_property
    def _frequencies(self) -> list[NDArray[np.int64]]:
        return [frequencies(costs, self.largest) for costs in self.costs]

    @cached_property
    def _bits(self) -> list[Float32]:
        return [(PRECISION - np.log2(each)).astype(np.float32) for each in self._frequencies]

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
        """Read quantisers at `position`; also returns their end.

        Raises:
            PeerError: they are cut off, or larger than the format allows.
        """
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
        largest, variance = (
            cls.reach(value),
            max(float(np.mean(np.square(value, dtype=np.float64))), 0.2),
        )
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
            counts[: self.largest + 1] = self.frequencies(quantiser)[self.largest :]
            counts[1:] *= 2
            costs.append(fit(counts * (1e6 / counts.sum())))
        return Quantisers(largest, self.shifts, (costs[0], costs[1]))

    def length_bits(self, index: Index, quantiser: Quantiser, count: NDArray[np.intp]) -> float:
        """Ideal number of bits of the indices if each occurs `count` times."""
        bits = np.concatenate([self.bits(0), self.bits(1)])
        place = quantiser * np.int32(2 * self.largest + 1) + index + self.largest
        return float(np.sum(bits.take(place) * count, dtype=np.float64))

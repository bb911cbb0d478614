"""Whole numbers modulo a power of two, where masks cancel exactly in a sum; packed at a fixed number of bits.

Knows no client and no mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from plait.errors import PeerError

Residues: TypeAlias = NDArray[np.uint8 | np.uint16]
"""Numbers modulo 2^bits, in the smallest type that holds them."""

LEAST_BITS, MOST_BITS = 2, 16
_LANES = 8


@dataclass(frozen=True)
class Ring:
    """The numbers modulo 2^bits.

    Attributes:
        bits: 2 to 16.
    """

    bits: int

    def __post_init__(self) -> None:
        if not LEAST_BITS <= self.bits <= MOST_BITS:
            raise PeerError(f"ring has {self.bits} bits, expected {LEAST_BITS} to {MOST_BITS}")

    @property
    def dtype(self) -> type[np.uint8 | np.uint16]:
        """Of residues; its own arithmetic is modulo a multiple of the ring's modulus."""
        return np.uint8 if self.bits <= 8 else np.uint16

    def zeros(self, size: int) -> Residues:
        """`size` zeros."""
        return np.zeros(size, self.dtype)

    def reduced(self, values: NDArray[np.integer]) -> Residues:
        """Whole numbers of any sign, modulo 2^bits."""
        return (values & ((1 << self.bits) - 1)).astype(self.dtype)

    def lifted(self, residues: Residues) -> NDArray[np.int32]:
        """The representatives from -2^(bits - 1) to 2^(bits - 1) - 1."""
        half = np.int32(1 << (self.bits - 1))
        values = residues.astype(np.int32) & np.int32((1 << self.bits) - 1)
        return (values + half & np.int32((1 << self.bits) - 1)) - half

    def packed_bytes(self, size: int) -> int:
        """Bytes of `size` packed numbers."""
        return -(-size // _LANES) * self.bits

    def pack(self, residues: Residues) -> bytes:
        """Eight numbers in `bits` bytes, the first in the lowest bits; the last group is filled up with zeros."""
        groups = np.zeros((-(-residues.size // _LANES), _LANES), np.uint64)
        groups.reshape(-1)[: residues.size] = residues & self.dtype((1 << self.bits) - 1)
        if self.bits <= 8:
            return self._joined(groups, self.bits).tobytes()
        low, high = groups & np.uint64(0xFF), groups >> np.uint64(8)
        return np.hstack([self._joined(low, 8), self._joined(high, self.bits - 8)]).tobytes()

    def unpack(self, data: bytes, size: int) -> Residues:
        """The inverse of `pack`.

        Raises:
            PeerError: another number of bytes, or an end that is not zeros.
        """
        if len(data) != self.packed_bytes(size):
            raise PeerError(
                f"{size} numbers of {self.bits} bits have {len(data)} bytes, expected {self.packed_bytes(size)}"
            )
        rows = np.frombuffer(data, np.uint8).reshape(-1, self.bits)
        if self.bits <= 8:
            values = self._split(rows, self.bits)
        else:
            values = self._split(rows[:, :8], 8) | self._split(rows[:, 8:], self.bits - 8) << np.uint64(8)
        flat = values.reshape(-1).astype(self.dtype)
        if flat[size:].any():
            raise PeerError("packed numbers end in other bits than zeros, expected zeros")
        return flat[:size]

    @staticmethod
    def _joined(groups: NDArray[np.uint64], bits: int) -> NDArray[np.uint8]:
        words = np.zeros(len(groups), "<u8")
        for lane in range(_LANES):
            words |= groups[:, lane] << np.uint64(lane * bits)
        return words.view(np.uint8).reshape(-1, 8)[:, :bits]

    @staticmethod
    def _split(rows: NDArray[np.uint8], bits: int) -> NDArray[np.uint64]:
        words = np.zeros((len(rows), 8), np.uint8)
        words[:, :bits] = rows
        joined = words.reshape(-1).view("<u8").astype(np.uint64)
        lanes = np.arange(_LANES, dtype=np.uint64) * np.uint64(bits)
        return joined[:, None] >> lanes & np.uint64((1 << bits) - 1)

"""Masks that cancel in a sum of whole numbers modulo a power of two, and shares of the secrets that they come from.

Two clients agree on a mask over X25519, a client has one of its own, and both are AES-256 streams. What a mask is for
goes into its derivation (HKDF, RFC 5869), the very adapter that the client received included: clients that a server
sent different models have masks that do not cancel (Pasquini et al., arXiv 2111.07380). Secrets of 32 bytes are shared
after Shamir (1979), modulo the smallest prime above 2^256: any `threshold` shares give the secret, fewer nothing.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

from plait.errors import PeerError
from plait.trust.keys import derived

Residues: TypeAlias = NDArray[np.uint8 | np.uint16]
"""Numbers modulo 2^bits, in the smallest type that holds them."""

LEAST_BITS, MOST_BITS = 2, 16
_LANES = 8


@dataclass(frozen=True)
class Ring:
    """The numbers modulo 2^bits, with 2 to 16 bits, packed."""

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
        """The inverse of `pack`."""
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
            raise PeerError("packed numbers end in bits other than zeros")
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


_BLOCK = 1 << 16


@dataclass(frozen=True)
class Mask:
    """One stream of a mask, of a key of 32 bytes; sign 1 adds it, -1 takes it off."""

    key: bytes
    sign: int


def public_of(private: bytes) -> bytes:
    """The public half of an X25519 key, 32 bytes."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def agreed(private: bytes, public: bytes, *purpose: bytes) -> bytes:
    """The key that both halves' owners agree on; `purpose` names a roster with all public keys."""
    try:
        shared = _loaded(private).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise PeerError("not a usable X25519 public key") from None
    return derived(shared, *purpose)


@lru_cache(maxsize=2)
def _loaded(private: bytes) -> X25519PrivateKey:
    """Kept while one client agrees with all others: loading costs as much as agreeing."""
    return X25519PrivateKey.from_private_bytes(private)


def add_masks(values: Residues, figures: NDArray[np.uint64], masks: Sequence[Mask], ring: Ring) -> None:
    """Add masks in place to numbers or a sum, and to figures modulo 2^64, which get the first bytes of each stream."""
    streams = [(Cipher(AES(mask.key), CTR(bytes(16))).encryptor(), mask.sign) for mask in masks]
    size = values.itemsize
    zeros, room = memoryview(bytes(_BLOCK)), bytearray(_BLOCK + 15)
    for stream, sign in streams:
        drawn = np.frombuffer(stream.update(bytes(8 * figures.size)), "<u8")
        figures += drawn if sign > 0 else -drawn
    # By blocks that fit the processor's cache, all masks of one before the next.
    for at in range(0, values.size, _BLOCK // size):
        part = values[at : at + _BLOCK // size]
        for stream, sign in streams:
            stream.update_into(zeros[: part.nbytes], room)
            drawn = np.frombuffer(room, values.dtype, part.size)
            if sign > 0:
                np.add(part, drawn, out=part)
            else:
                np.subtract(part, drawn, out=part)
        part &= part.dtype.type((1 << ring.bits) - 1)


PRIME = 2**256 + 297
SECRET_BYTES = 32
SHARE_BYTES = 33


def split(
    secret: bytes, *, threshold: int, count: int, below: Callable[[int], int] = secrets.randbelow
) -> tuple[bytes, ...]:
    """Shares of a secret of 32 bytes, for the points 1 to `count`; `threshold` of them give it."""
    coefficients = [int.from_bytes(secret, "big"), *(below(PRIME) for _ in range(threshold - 1))]
    return tuple(_at(coefficients, point).to_bytes(SHARE_BYTES, "big") for point in range(1, count + 1))


def combine(shares: Mapping[int, bytes], *, threshold: int) -> bytes:
    """The secret of at least `threshold` shares, by point; the ones of the lowest points are used."""
    if len(shares) < threshold:
        raise PeerError(f"{len(shares)} shares of a secret are here, expected at least {threshold}")
    points = tuple(sorted(shares)[:threshold])
    terms = zip(_weights(points), (int.from_bytes(shares[point], "big") for point in points), strict=True)
    value = sum(weight * share for weight, share in terms) % PRIME
    if value >> (8 * SECRET_BYTES):
        raise PeerError("shares do not combine to a secret of 32 bytes")
    return value.to_bytes(SECRET_BYTES, "big")


def whole_secret(secret: bytes) -> bytes:
    """The share of the point 0, which is the secret itself."""
    return secret.rjust(SHARE_BYTES, b"\0")


def check_share(share: bytes) -> bytes:
    """The share."""
    if len(share) != SHARE_BYTES or int.from_bytes(share, "big") >= PRIME:
        raise PeerError(f"share has {len(share)} bytes or is too large, expected {SHARE_BYTES} bytes below the prime")
    return share


def _at(coefficients: Sequence[int], point: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * point + coefficient) % PRIME
    return value


@lru_cache(maxsize=64)
def _weights(points: tuple[int, ...]) -> tuple[int, ...]:
    """Lagrange's weights at 0; a round's secrets mostly have the same holders."""
    weights: list[int] = []
    for point in points:
        above = below = 1
        for other in points:
            if other != point:
                above = above * other % PRIME
                below = below * (other - point) % PRIME
        weights.append(above * pow(below, -1, PRIME) % PRIME)
    return tuple(weights)

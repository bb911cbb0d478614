"""Masks from secrets: two clients agree on one over X25519, a client has one of its own, and both are AES-256 streams.

What a mask is for goes into its derivation (HKDF, RFC 5869): run, purpose, round, attempt, roster, and the very adapter
that the client received. So no mask is used twice, and clients that a server sent different models have masks that do
not cancel (Pasquini et al., arXiv 2111.07380). Knows no client's name and no stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

from plait.errors import PeerError
from plait.features.secagg.ring import Residues, Ring
from plait.trust.derived import derived

_BLOCK = 1 << 16


@dataclass(frozen=True)
class Mask:
    """One stream of a mask.

    Attributes:
        key: 32 bytes.
        sign: 1 to add it, -1 to take it off.
    """

    key: bytes
    sign: int


def public_of(private: bytes) -> bytes:
    """The public half of an X25519 key, 32 bytes."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def agreed(private: bytes, public: bytes, *purpose: bytes) -> bytes:
    """The key that both halves' owners agree on; `purpose` names a roster with all public keys.

    Raises:
        PeerError: the public key is of small order, so that the result would be known to all.
    """
    try:
        shared = _loaded(private).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise PeerError("public key gives no secret, expected an X25519 key") from None
    return derived(shared, *purpose)


@lru_cache(maxsize=2)
def _loaded(private: bytes) -> X25519PrivateKey:
    """Kept while one client agrees with all others: loading costs as much as agreeing."""
    return X25519PrivateKey.from_private_bytes(private)


def add_masks(values: Residues, figures: NDArray[np.uint64], masks: Sequence[Mask], ring: Ring) -> None:
    """Add masks to a client's numbers, or to a sum of them, in place.

    Args:
        figures: numbers modulo 2^64, which have the first bytes of each stream.
    """
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

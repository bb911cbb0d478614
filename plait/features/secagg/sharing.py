"""Shamir's secret sharing of 32 bytes: any `threshold` shares give the secret, fewer give nothing.

Shamir, "How to Share a Secret" (1979), over the integers modulo the smallest prime above 2^256. Knows no client.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from plait.errors import PeerError

PRIME = 2**256 + 297
SECRET_BYTES = 32
SHARE_BYTES = 33


def split(
    secret: bytes, *, threshold: int, count: int, below: Callable[[int], int] = secrets.randbelow
) -> tuple[bytes, ...]:
    """Shares of a secret for the points 1 to `count`.

    Args:
        secret: 32 bytes.
        threshold: shares that give it, 1 to `count`.
        below: draws a number below its argument; the system's generator.
    """
    coefficients = [int.from_bytes(secret, "big"), *(below(PRIME) for _ in range(threshold - 1))]
    return tuple(_at(coefficients, point).to_bytes(SHARE_BYTES, "big") for point in range(1, count + 1))


def combine(shares: Mapping[int, bytes], *, threshold: int) -> bytes:
    """The secret of at least `threshold` shares, by point; the ones of the lowest points are used.

    Raises:
        PeerError: there are too few, or they are not of a secret.
    """
    if len(shares) < threshold:
        raise PeerError(f"{len(shares)} shares of a secret are here, expected at least {threshold}")
    points = tuple(sorted(shares)[:threshold])
    terms = zip(_weights(points), (int.from_bytes(shares[point], "big") for point in points), strict=True)
    value = sum(weight * share for weight, share in terms) % PRIME
    if value >> (8 * SECRET_BYTES):
        raise PeerError("shares give no secret of 32 bytes, expected shares of one")
    return value.to_bytes(SECRET_BYTES, "big")


def whole_secret(secret: bytes) -> bytes:
    """The share of the point 0, which is the secret itself."""
    return secret.rjust(SHARE_BYTES, b"\0")


def check_share(share: bytes) -> bytes:
    """The share.

    Raises:
        PeerError: its length or its value is impossible.
    """
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

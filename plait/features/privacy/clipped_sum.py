"""The sum of a region's clipped updates in whole numbers: what a region of a private run sends, and how it is checked.

Noise is added once, on the sum of all regions' sums, by the server that releases it. So a region does what that server
would do with its clients' updates, and no more: it clips each on the same grid and adds the whole numbers up. A client
moves its region's sum by at most `radius`, in Euclidean norm, and every other region's by nothing, so it moves the sum
of all by at most `radius`: the mechanism and its price are those of a run without regions (`mechanism`).

The direction of rounding need not be secret: the bound holds either way. It follows from the
update alone, so a killed region continues to the same sum.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from plait.adapters import Float32
from plait.adapters.partial_sum import Float64Array, PartialSum, carried, cut_up
from plait.errors import PeerError
from plait.features.privacy.clip import clipped_to_grid
from plait.features.privacy.mechanism import ClientPrivacy

_UNIT = 2.0**-17
"""Of the numbers that are sent, so that a mean is at most 1 in norm: no radius is above 2^17."""


class ClippedSum:
    """Takes the updates of a round one by one.

    Args:
        privacy: of the run, with a fixed clip norm.
    """

    def __init__(self, privacy: ClientPrivacy, *, size: int) -> None:
        self._clip_norm = privacy.first_clip(size)
        self._radius = privacy.grid(size).radius
        self._sum = np.zeros(size, np.int64)

    def add(self, values: Float32, *, key: bytes) -> None:
        """Add an update, (size,), as decoded; `key` decides which way its numbers are rounded."""
        self._sum += clipped_to_grid(values, clip_norm=self._clip_norm, radius=self._radius, key=key)

    def join(self, numbers: NDArray[np.int64]) -> None:
        """Add the sum of a region below."""
        self._sum += numbers

    def numbers(self) -> Float64Array:
        """The sum as it is sent, (size,), exact."""
        return self._sum.astype(np.float64) * _UNIT


def rounding_key(run_id: bytes, number: int, client: str, payload_digest: bytes) -> bytes:
    """Which way a client's numbers are rounded in a round."""
    said = b"rounding of an update" + run_id + number.to_bytes(8, "big") + payload_digest + client.encode()
    return hashlib.sha256(said).digest()


def part_of(numbers: Float64Array, clients: int) -> PartialSum:
    """The same as a sum of so many clients of equal weight; changes `numbers`."""
    size = numbers.size
    return PartialSum(carried(dict(cut_up(numbers)) or {0: np.zeros(size)}), float(clients))


def whole_numbers(part: PartialSum, *, clients: int, radius: int) -> NDArray[np.int64]:
    """What a region sent, in units of the grid.

    Raises:
        PeerError: no clients' clipped updates add up to it.
    """
    _check_limbs(part.limbs)
    scaled = part.total() / _UNIT
    length = float(np.sqrt(scaled @ scaled))
    if not length <= clients * radius * (1 + 1e-9):
        raise PeerError(f"norm of the sum is {length:.6g} units, expected at most {radius:,} for each of {clients}")
    if not np.array_equal(scaled, np.floor(scaled)):
        raise PeerError("the sum has fractions of a unit, expected whole numbers")
    return scaled.astype(np.int64)


def _check_limbs(limbs: Mapping[int, Float64Array]) -> None:
    # Places hold 2^32 each: with two of them the total is exact, and no honest sum has bits elsewhere.
    if any(limbs[place].any() for place in limbs if place not in (-1, 0)):
        raise PeerError("the sum has numbers far below or above its unit, expected whole numbers of it")

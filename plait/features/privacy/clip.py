"""Clip a decoded update, and put it on the grid; the bound is checked on the whole numbers that are summed.

Every number is rounded to one of its two neighbours at random, so that small ones are not lost in the mean. That can
make the update longer, so its length is compared with the radius afterwards, in whole numbers, and the update
shortened until it fits: no property of floats, of the wire or of a client is relied on. Knows no noise.
"""

from __future__ import annotations

import math
from collections.abc import Generator

import numpy as np
from numpy.typing import NDArray

from plait.adapters import Float32
from plait.features.privacy.noise import BLOCK, Keystream

_TRIES = 64
_LINEAR_TRIES = 4
_MARGIN = 1 - 1e-6
# What rounding adds to the square of a length, per number, where fractions are spread evenly.
_ADDED = 1 / 6


def length(values: Float32) -> float:
    """Euclidean norm, in float64."""
    return math.sqrt(sum(float(np.dot(part, part)) for part in _blocks(values)))


def clipped_to_grid(values: Float32, *, clip_norm: float, radius: int, key: bytes) -> NDArray[np.int32]:
    """The update in units of clip_norm / radius, (size,), of Euclidean norm at most `radius`.

    Args:
        values: the decoded update, finite.
        clip_norm: norm that longer updates are scaled to.
        radius: the same in units, at most 2^17.
        key: 32 bytes; decides which way numbers are rounded.
    """
    room = math.sqrt(max(0.5, 1 - _ADDED * values.size / radius**2)) * (1 - 1e-4)
    scale = min(radius / clip_norm, radius * room / max(length(values), 1e-300))
    for attempt in range(_TRIES):
        integers, square = _rounded(values, scale, key)
        if square <= radius * radius:
            return integers
        # A long update's square follows the scale's square; that of many small numbers follows the scale.
        ratio = radius * radius / square
        scale *= _MARGIN * (math.sqrt(ratio) if attempt < _LINEAR_TRIES else ratio)
    return np.zeros(values.size, np.int32)


def _rounded(values: Float32, scale: float, key: bytes) -> tuple[NDArray[np.int32], float]:
    """The numbers, and the square of their length: exact, since float64 holds sums of whole numbers up to 2^53."""
    stream = Keystream(key)
    out = np.empty(values.size, np.int32)
    at, square = 0, 0.0
    for part in _blocks(values):
        rounded = np.floor(part * scale + stream.halves(part.size) * 2.0**-32)
        square += float(np.dot(rounded, rounded))
        out[at : at + part.size] = rounded
        at += part.size
    return out, square


def _blocks(values: Float32) -> Generator[NDArray[np.float64]]:
    for at in range(0, values.size, BLOCK):
        yield values[at : at + BLOCK].astype(np.float64)

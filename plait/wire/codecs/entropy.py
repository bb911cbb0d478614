"""Entropy coding: the probabilities of a quantiser's indices as exact integers, and streams coded by them.

A magnitude's cost in bits is given at knots and is linear in between; decoding uses integers only, so that every
machine gets the same frequencies. Neighbouring lanes share a stream of an asymmetric numeral system (Duda, arXiv
1311.2540; Bamler, arXiv 2201.01741): 32-bit words, 24-bit frequencies (`compiled`, `uncompiled`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from plait.adapters.state import Float32
from plait.errors import PeerError

PRECISION = 24  # frequencies sum to 2**24
_COST_UNIT = 8  # a knot's byte is in eighths of a bit
_FRACTIONS = 256

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


@cache
def knots(largest: int) -> tuple[int, ...]:
    """The magnitudes whose cost is given: 0 to 4, then a quarter further each time, and `largest` itself."""
    found = [0]
    while found[-1] < largest:
        found.append(min(largest, max(found[-1] + 1, found[-1] * 5 // 4)))
    return tuple(found)


@cache
def _powers() -> Int64:
    """floor(2**(30 - j/256)) for j = 0 … 255: exact 256th roots, by eight integer square roots each."""
    roots: list[int] = []
    for j in range(_FRACTIONS):
        root = 1 << (30 * _FRACTIONS - j)
        for _ in range(8):
            root = isqrt(root)
        roots.append(root)
    return np.array(roots, np.int64)


def frequencies(costs: NDArray[np.uint8], largest: int) -> Int64:
    """Frequencies of -largest … largest, at least 1, with a sum of 2**24, of costs at knots in eighths of a bit."""
    at = np.array(knots(largest), np.int64)
    fine = costs.astype(np.int64) * (_FRACTIONS // _COST_UNIT)
    if largest:
        magnitude, left = np.arange(largest + 1), _between(largest)[0]
        rise, run = fine[left + 1] - fine[left], at[left + 1] - at[left]
        fine = fine[left] + rise * (magnitude - at[left]) // run
    weight = _powers()[fine % _FRACTIONS] >> np.minimum(fine // _FRACTIONS, 30)
    weight = np.concatenate([weight[:0:-1], weight])
    spare = (1 << PRECISION) - weight.size
    frequency = weight * spare // max(1, int(weight.sum())) + 1
    frequency[largest] += (1 << PRECISION) - frequency.sum()
    return frequency


def fit(counts: Float64) -> NDArray[np.uint8]:
    """Costs at the knots for indices whose magnitude 0, 1, … occurred `counts` times, by weighted least squares."""
    smooth = counts + 0.02
    share = smooth / smooth.sum()
    share[1:] /= 2  # two signs
    cost = -np.log2(share)
    if counts.size > 1:
        at = np.array(knots(counts.size - 1))
        left, part = _between(counts.size - 1)
        near = np.stack([1 - part, part])
        # Normal equations; only neighbours share magnitudes.
        squares = [np.bincount(left, smooth * near[i] * near[j], at.size) for i, j in ((0, 0), (1, 1), (0, 1))]
        right = [np.bincount(left, smooth * cost * weight, at.size) for weight in near]
        for each in (squares, right):
            each[0][1:] += each[1][:-1]
        normal = np.zeros((at.size, at.size))
        for offset, diagonal in ((0, squares[0]), (1, squares[2][:-1]), (at.size, squares[2][:-1])):
            normal.ravel()[offset :: at.size + 1][: diagonal.size] = diagonal
        cost = np.linalg.solve(normal, right[0])
    return np.clip(np.rint(cost * _COST_UNIT), 0, 255).astype(np.uint8)


@lru_cache(maxsize=256)
def _between(largest: int) -> tuple[Int64, Float64]:
    """For each magnitude up to `largest`: the knot at or before it, and the fraction of the way to the next one."""
    at = np.array(knots(largest))
    magnitude = np.arange(largest + 1)
    left = np.minimum(np.searchsorted(at, magnitude, side="right") - 1, at.size - 2)
    return left, (magnitude - at[left]) / (at[left + 1] - at[left])


MOST_STREAMS = 8
_LANES_PER_STREAM = 64  # with fewer, a stream's own bytes weigh

Symbols = NDArray[np.int32]
Words = NDArray[np.uint32]


def streams_of(lanes: int) -> int:
    """Number of streams for this many lanes (part of the format)."""
    return min(MOST_STREAMS, max(1, lanes // _LANES_PER_STREAM))


def join(streams: Sequence[Words]) -> bytes:
    """The payload: the length in words of each stream but the last, then all streams."""
    lengths = np.array([stream.size for stream in streams[:-1]], np.uint32)
    return np.concatenate([lengths, *streams]).astype("<u4", copy=False).tobytes()


def split(payload: bytes | memoryview, streams: int) -> list[Words]:
    """The streams of a payload."""
    if len(payload) % 4 or len(payload) < 4 * (streams - 1):
        raise PeerError(
            f"entropy-coded payload has {len(payload)} bytes, expected a multiple of 4 and at least {4 * (streams - 1)}"
        )
    words = np.frombuffer(payload, "<u4").astype(np.uint32)
    ends = streams - 1 + np.cumsum(words[: streams - 1], dtype=np.uint64)
    if ends.size and ends[-1] > words.size:
        raise PeerError(f"entropy-coded streams end after {ends[-1]} words, expected at most {words.size}")
    found = np.split(words[streams - 1 :], (ends - np.uint64(streams - 1)).astype(np.intp))
    if any(stream.size and not stream[-1] for stream in found):
        raise PeerError("corrupt entropy-coded stream: trailing zero word")
    return found


DOES_NOT_END = "corrupt entropy-coded stream: it does not end with its last symbol"


class Scatter:
    """Moves numbers from group order to their positions in the layout."""

    def __init__(self, flat: Float32, places: Sequence[tuple[int, int]]) -> None:
        self._flat = flat
        self._places = iter(places)
        self._start = self._stop = 0

    def write(self, numbers: Float32) -> None:
        """Put the next numbers where they belong."""
        while numbers.size:
            if self._start == self._stop:
                self._start, size = next(self._places)
                self._stop = self._start + size
            end = min(self._stop, self._start + numbers.size)
            self._flat[self._start : end] = numbers[: end - self._start]
            numbers, self._start = numbers[end - self._start :], end

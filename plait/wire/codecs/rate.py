"""The variable-rate codec: a target of 8 down to 1 bits per parameter, at the least squared error.

Tensors of similar scale form a group; all groups share one trellis with one step (`trellis`), and their indices are
entropy-coded with probabilities fitted to each group (`entropy`). The encoder minimises distortion + λ · bits with one
λ for all. Where the rate jumps at some λ, a part of the lanes has a lower price: the rate is linear in their share.
Format: proto/README.md.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plait.adapters import AdapterState, Layout
from plait.adapters.state import Float32
from plait.errors import PeerError
from plait.wire.codec import EncodedPayload
from plait.wire.codecs import compiled
from plait.wire.codecs.entropy import Scatter, join, split, streams_of
from plait.wire.codecs.trellis import (
    GREATEST_STEP,
    LARGEST,
    LEAST_STEP,
    STATE_BITS,
    Mix,
    Numbers,
    Path,
    Quantisers,
    Trellis,
    lanes_of,
    quantise,
)

_LEAST, _GREATEST = 0.01, 10.0
_ATTEMPTS = 8
_ROOM = 1.06  # error of a sample's rate; prices nearer to the target than this are not worth distinguishing
_WIDE, _NARROW = 1.5, 1.01  # rates too far apart to mix, and prices close enough to count as one (ratios)


@dataclass(frozen=True)
class PricePair:
    """Two prices and their rates in bits per number."""

    low: float
    high: float
    most: float
    least: float

    @classmethod
    def around(cls, price: float, bits: float, rate_at: Callable[[float], float]) -> PricePair:
        """Prices near `price` whose rates enclose `bits`, or come as close as a few attempts allow."""
        low, high = price / 1.1, price * 1.1
        most, least = rate_at(low), rate_at(high)
        for _ in range(_ATTEMPTS):
            ratio = (high / low) ** 2
            if least > bits and high < _GREATEST:
                low, most, high = high, least, min(high * ratio, _GREATEST)
                least = rate_at(high)
            elif most < bits and low > _LEAST:
                low, high, least = max(low / ratio, _LEAST), low, most
                most = rate_at(low)
            elif most > bits > least and most > _WIDE * least and high > _NARROW * low:
                middle = (low * high) ** 0.5
                got = rate_at(middle)
                if got > _ROOM * bits:
                    low, most = middle, got
                elif got < bits / _ROOM:
                    high, least = middle, got
                else:
                    break
            else:
                break
        return cls(low, high, most, least)

    def share(self, bits: float) -> float:
        """The share of lanes that need the low price for this rate; outside 0 to 1 if neither price will do."""
        return (bits - self.least) / max(self.most - self.least, 1e-4 * self.most, 1e-9)

    def mix(self, share: float) -> Mix:
        """Both prices; for a share outside 0 to 1 a single one, extrapolated."""
        if 0 <= share <= 1:
            return Mix(self.low, self.high, share)
        beyond = self.high * (self.low / self.high) ** min(max(share, -4.0), 5.0)
        return Mix(beyond, beyond, share)


# Samples: numbers, and steps of a lane.
_COARSE, _FINE = (1 << 14, 64), (1 << 16, 128)
_MOST_STEPS = 2 * LARGEST - 2  # from zero to the furthest number: none is clipped
_LEAST_PASSES, _COARSE_PASSES, _FINE_PASSES, _WHOLE_PASSES = 4, 11, 2, 6
_STEEPEST = 40.0
_NEAR, _CLOSE = 0.02, 0.008  # tolerances of a rate, on the coarse sample and on all numbers, relative to its target

# Tuned on Gaussian samples. For rates in bits a number: the step in standard deviations, and λ in squared steps.
_LOG_RATES = np.log([1, 2, 4, 8])
_LOG_STEPS = np.log([0.88, 0.38, 0.125, 0.008])
_PRICES = np.array([0.5, 0.65, 0.5, 0.4])


def search(groups: Sequence[Float32], bits: float, trellis: Trellis, *, overhead_bytes: int) -> Path:
    """Quantise groups of numbers, none of them all zeros, to about `bits` a number over all of them.

    All parameters count (`overhead_bytes` are those besides the quantisers), but only up to half of the target.
    """
    size = sum(group.size for group in groups)
    numbers = Numbers(groups, lanes_of(size))
    price = float(np.interp(np.log(bits), _LOG_RATES, _PRICES))
    energy = sum(float(np.square(group, dtype=np.float64).sum()) for group in groups)
    deviations = float(np.interp(np.log(bits), _LOG_RATES, _LOG_STEPS))
    furthest = max(float(np.abs(group).max()) for group in groups)
    least = min(max(furthest / _MOST_STEPS, LEAST_STEP), GREATEST_STEP)
    aim = _Aim(bits, least, 0.5 * float(np.log(energy / size)) + deviations)

    def rate(path: Path) -> float:
        parameter_bytes = overhead_bytes + sum(each.size_bytes for each in path.quantisers)
        return path.bits + min(8 * parameter_bytes / size, bits / 2)

    # Step and quantisers depend on each other; a sample of the numbers finds both.
    coarse, fine = (numbers.sample(*kind) for kind in (_COARSE, _FINE))
    guess: Sequence[Quantisers] = [Quantisers.gaussian(group / aim.step) for group in coarse.groups]
    for attempt in range(_COARSE_PASSES):
        path = quantise(coarse, aim.step, guess, Mix(price, price, 1), trellis)
        guess, got = path.quantisers, rate(path)
        if attempt:  # the first only replaces the guess
            aim = aim.corrected(got)
        if attempt + 1 >= _LEAST_PASSES and abs(got - bits) < _NEAR * bits:
            break
    for _ in range(_FINE_PASSES):
        path = quantise(fine, aim.step, guess, Mix(price, price, 1), trellis)
        guess, aim = path.quantisers, aim.corrected(rate(path))
    # λ alone does the rest: it fixes the rate, first on the sample, then on all numbers.
    step = aim.step
    pair = PricePair.around(price, bits, lambda it: rate(quantise(fine, step, guess, Mix(it, it, 1), trellis)))
    share, tried = pair.share(bits), list[tuple[float, float, Path]]()
    while len(tried) < _WHOLE_PASSES:
        path = quantise(numbers, step, guess, pair.mix(share), trellis)
        tried.append((rate(path) - bits, share, path))
        if abs(tried[-1][0]) < _CLOSE * bits:
            return path
        below = max((each[:2] for each in tried if each[0] < 0), default=None)
        above = min((each[:2] for each in tried if each[0] >= 0), default=None)
        if below and above:
            share = below[1] - below[0] * (above[1] - below[1]) / (above[0] - below[0])
        else:
            share += (pair.share(bits) - pair.share(bits + tried[-1][0])) * 2 ** (len(tried) - 1)
    return min(tried, key=lambda each: abs(each[0]))[2]


@dataclass(frozen=True)
class _Aim:
    """The state of the search for the step, and the rate of the previous step."""

    bits: float
    least: float  # step
    log_step: float
    before: tuple[float, float] | None = None

    @property
    def step(self) -> np.float32:
        return np.float32(np.clip(np.exp(self.log_step), self.least, GREATEST_STEP))

    def corrected(self, got: float) -> _Aim:
        """The next step to try: by a Gaussian's slope, or the observed one if that is steeper."""
        slope = 1.44 + 2.5 * np.exp(-2 * min(got, self.bits))  # bits lost by an e-fold of the step
        if self.before is not None and self.before[0] != self.log_step:
            seen = (self.before[1] - got) / (self.log_step - self.before[0])
            slope = max(slope, min(seen, _STEEPEST))
        move = float(np.clip((got - self.bits) / slope, -0.5, 0.5)) if got else -0.2
        return _Aim(self.bits, self.least, self.log_step + move, (self.log_step, got))


LEAST_BITS, GREATEST_BITS = 1, 8
_BYTES_BEHIND_A_GROUP = 512  # with fewer, a group is not worth the bytes that describe it
_LEAST_BYTES = 64  # worth spending on any delta
_MOST_OVER = 1.05  # of the target
MAX_GROUPS = 15  # a tensor's group takes four bits; 0 is for all-zero tensors, which are not sent
_HEAD = struct.Struct("<BfB")


@dataclass(frozen=True)
class Rate:
    """Packs to `bits` per parameter (of the tensors that are not all zeros).

    The decoded values are the same on every machine. The encoded bytes may differ between kinds of processors: numpy's
    logarithms may differ in their last digit, and then another path may win.

    Attributes:
        bits: the target, 1 to 8.
        state_bits: 2 to 8; each additional bit doubles the time of a path for slightly less distortion: from 4 to 6
            bits 3 % less.
    """

    name = "rate"
    number = 4

    bits: float = 1.0
    state_bits: int = 4

    @property
    def distortion(self) -> float:
        """Approximately as measured on Gaussian numbers and on real deltas; a perfect coder would lose 4 ** -bits."""
        return 4 ** (-0.88 * self.bits)

    def encode(self, delta: AdapterState) -> EncodedPayload:
        """Search, then pack; where little is sent, at a rate that makes it 64 bytes."""
        energy = float(np.square(delta.flat, dtype=np.float64).sum())
        room = _MOST_OVER * self.bits * delta.layout.size / 8 + 2 * _LEAST_BYTES

        def harm(packed: EncodedPayload) -> tuple[bool, float]:
            if packed.decoded is None:
                return False, 0.0
            return packed.size_bytes > room, float(np.square(delta.flat - packed.decoded, dtype=np.float64).sum())

        found = self._encoded(delta, self.bits)
        if harm(found) > (False, self.distortion * energy):
            # Numbers of few sizes may be met better by coarser steps.
            lower = (self._encoded(delta, float(bits)) for bits in range(LEAST_BITS, math.ceil(self.bits)))
            found = min((found, *lower), key=harm)
        return found

    def _encoded(self, delta: AdapterState, bits: float) -> EncodedPayload:
        sent = sum(slot.size for slot in delta.layout.slots if delta.flat[slot.offset : slot.offset + slot.size].any())
        bits = max(bits, min(GREATEST_BITS, 8 * _LEAST_BYTES / max(1, sent)))
        affordable = int(bits * delta.layout.size / 8) // _BYTES_BEHIND_A_GROUP
        membership = _group_by_scale(delta, most=min(MAX_GROUPS, max(1, affordable)))
        values = [_gather(delta, membership, group) for group in range(1, membership.max(initial=0) + 1)]
        nibbles = _pack_nibbles(membership)
        if not values:
            return EncodedPayload(_HEAD.pack(self.state_bits, 1.0, 0) + nibbles, b"")
        trellis = Trellis(self.state_bits)
        done = search(values, bits, trellis, overhead_bytes=_HEAD.size + len(nibbles))
        books, sizes = [_Book.of(each, done.step) for each in done.quantisers], [value.size for value in values]
        symbol, second = done.index(), done.quantiser()
        flat = np.zeros(delta.layout.size, np.float32)
        numbers = Scatter(flat, _places(delta.layout, membership))
        start = 0
        for book, size in zip(books, sizes, strict=True):
            part = slice(start, start := start + size)
            symbol[part] += np.int32(book.largest)
            numbers.write(book.value.take(symbol[part] + np.int32(2 * book.largest + 1) * second[part]))
        lanes = lanes_of(symbol.size)
        streams = compiled.pack(symbol, second, sizes, *_tables(books), lanes)
        parameters = _HEAD.pack(self.state_bits, done.step, len(values)) + nibbles
        parameters += b"".join(each.pack() for each in done.quantisers)
        return EncodedPayload(parameters, join(streams), flat)

    def decode(self, parameters: bytes, payload: bytes | memoryview, layout: Layout) -> Float32:
        """Follow the trellis that the parameters describe.

        Takes memory for the result, for twice the payload, and little more; the time depends on layout.size only,
        whatever the bytes are.
        """
        state_bits, step, membership, quantisers = _unpack(parameters, layout)
        trellis, places = Trellis(state_bits), _places(layout, membership)
        sizes = _sizes(layout, membership, len(quantisers))
        lanes = lanes_of(sum(sizes))
        streams = split(payload, streams_of(lanes))
        flat = np.zeros(layout.size, np.float32)
        books = [_Book.of(each, step) for each in quantisers]
        values = [book.value for book in books]
        compiled.unpack(streams, sizes, *_tables(books), values, trellis.following, lanes, places, flat)
        return flat

    def max_payload_bytes(self, layout: Layout) -> int:
        """Two bytes per number and 128 KiB of parameters."""
        return 2 * layout.size + (1 << 17)


RATE = Rate()


@dataclass(frozen=True)
class _Book:
    """A group's values for coding: frequencies of both quantisers, and all (2 * (2 largest + 1),) numbers."""

    largest: int
    frequencies: tuple[NDArray[np.int64], NDArray[np.int64]]
    value: Float32

    @classmethod
    def of(cls, quantisers: Quantisers, step: np.float32) -> _Book:
        points = np.concatenate([quantisers.points(0), quantisers.points(1)])
        return cls(quantisers.largest, (quantisers.frequencies[0], quantisers.frequencies[1]), points * step)


def _tables(books: Sequence[_Book]) -> tuple[list[int], list[NDArray[np.int64]]]:
    """The largest magnitude and the frequencies of all groups."""
    return [book.largest for book in books], [each for book in books for each in book.frequencies]


def _places(layout: Layout, membership: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Offset and size of each tensor that is sent, in order of the groups."""
    members = membership.tolist()
    order = sorted((member, slot.offset, slot.size) for slot, member in zip(layout.slots, members, strict=True))
    return [(offset, size) for member, offset, size in order if member and size]


def _sizes(layout: Layout, membership: NDArray[np.uint8], groups: int) -> list[int]:
    sizes = [0] * (groups + 1)
    for slot, member in zip(layout.slots, membership.tolist(), strict=True):
        sizes[member] += slot.size
    return sizes[1:]


def _group_by_scale(delta: AdapterState, *, most: int) -> NDArray[np.uint8]:
    """(tensors,) 0 for an all-zero tensor, else 1 … `most` by its root mean square, largest first.

    A group spans at least a quarter of an octave; everything 40 dB below the largest is one group.
    """
    tensors = (delta.flat[slot.offset : slot.offset + slot.size] for slot in delta.layout.slots)
    energy = np.array([np.square(each, dtype=np.float64).sum() / max(1, each.size) for each in tensors])
    heard = energy > 0
    membership = np.zeros(energy.size, np.uint8)
    if heard.any():
        below = np.minimum(np.log2(energy.max() / energy[heard]) / 2, 7.0)  # octaves
        width = max(0.25, float(below.max()) / (most - 0.5))
        _, membership[heard] = np.unique((below / width).astype(np.uint8), return_inverse=True)
        membership[heard] += 1
    return membership


def _gather(delta: AdapterState, membership: NDArray[np.uint8], group: int) -> Float32:
    members = zip(delta.layout.slots, membership.tolist(), strict=True)
    return np.concatenate([delta.flat[s.offset : s.offset + s.size] for s, member in members if member == group])


def _pack_nibbles(membership: NDArray[np.uint8]) -> bytes:
    even = np.concatenate([membership, np.zeros(membership.size % 2, np.uint8)])
    return (even[0::2] | even[1::2] << 4).tobytes()


def _unpack(parameters: bytes, layout: Layout) -> tuple[int, np.float32, NDArray[np.uint8], Sequence[Quantisers]]:
    tensors = len(layout.slots)
    position = _HEAD.size + (tensors + 1) // 2
    if len(parameters) < position:
        raise PeerError(f"codec parameters have {len(parameters)} bytes, expected at least {position}")
    state_bits, step, groups = _HEAD.unpack_from(parameters)
    if state_bits not in STATE_BITS:
        raise PeerError(f"trellis has 2**{state_bits} states, expected 2**{min(STATE_BITS)} to 2**{max(STATE_BITS)}")
    if not LEAST_STEP <= step <= GREATEST_STEP:
        raise PeerError(f"step is {step}, expected {LEAST_STEP} to {GREATEST_STEP}")
    pairs = np.frombuffer(parameters, np.uint8, position - _HEAD.size, _HEAD.size)
    nibbles = np.stack([pairs & 15, pairs >> 4], axis=1, dtype=np.uint8).ravel()
    membership = nibbles[:tensors]
    if nibbles[tensors:].any() or sorted(set(membership.tolist()) - {0}) != list(range(1, groups + 1)):
        raise PeerError(f"tensors belong to groups {sorted(set(membership.tolist()))}, expected 1 to {groups}")
    quantisers: list[Quantisers] = []
    for _ in range(groups):
        each, position = Quantisers.unpack(parameters, position)
        quantisers.append(each)
    if position != len(parameters):
        raise PeerError(f"codec parameters have {len(parameters)} bytes, expected {position}")
    return state_bits, np.float32(step), membership, quantisers

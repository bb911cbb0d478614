"""The codec of the dial: as few bits a parameter as asked for, 8 down to 0.1, at the least squared error.

Tensors of like scale form a group; all run through one trellis of two quantisers with one step (`trellis`), and their
indices through one range coder under probabilities fitted to each group (`symbols`). The format is specified in
proto/README.md; what the encoder is free to choose is in `rate_search`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plait.adapters import AdapterState, Layout
from plait.adapters.state import Float32
from plait.errors import PeerError
from plait.wire.codec import EncodedPayload
from plait.wire.codecs.quantiser import Index, Quantiser, Quantisers
from plait.wire.codecs.range_coder import Model, RangeReader, RangeWriter, model_of
from plait.wire.codecs.rate_search import GREATEST_STEP, LEAST_STEP, lanes_of, search
from plait.wire.codecs.trellis import STATE_BITS, Trellis

LEAST_BITS, GREATEST_BITS = 0.1, 8
MAX_GROUPS = 15  # a tensor's group is four bits; 0 is for tensors of zeros, which do not travel
_HEAD = struct.Struct("<BfB")


@dataclass(frozen=True)
class Rate:
    """Packs to `bits` a parameter (of those tensors that are not all zeros).

    Attributes:
        bits: the target, 0.1 to 8.
        state_bits: 2 to 8; each bit more takes twice the encoder's time for a little less distortion.
    """

    name = "rate"
    number = 4

    bits: float = 1.0
    state_bits: int = 5

    @property
    def distortion(self) -> float:
        """About what is measured on Gaussian numbers and on real deltas; a perfect coder would lose 4 ** -bits."""
        return 4 ** (-0.88 * self.bits)

    def encode(self, delta: AdapterState) -> EncodedPayload:
        """Search, then pack."""
        membership = _group_by_scale(delta)
        trellis = Trellis(self.state_bits)
        values = [
            _gather(delta.flat, delta.layout, membership, group) for group in range(1, membership.max(initial=0) + 1)
        ]
        if not values:
            return EncodedPayload(_HEAD.pack(self.state_bits, 1.0, 0) + _pack_nibbles(membership), b"")
        done = search(values, self.bits, trellis, overhead_bytes=_HEAD.size + (membership.size + 1) // 2)
        models = [_models(each) for each in done.quantisers]
        largest = np.repeat([each.largest for each in done.quantisers], [value.size for value in values])
        symbol = done.index + largest.astype(np.int32)
        second = done.quantiser.astype(bool)
        writer = RangeWriter()
        for group, part in _rows([value.size for value in values]):
            row, odd = symbol[part], second[part]
            writer.write(row[~odd], models[group][0])
            writer.write(row[odd], models[group][1])
        parameters = _HEAD.pack(self.state_bits, done.step, len(values)) + _pack_nibbles(membership)
        return EncodedPayload(parameters + b"".join(each.pack() for each in done.quantisers), writer.finish())

    def decode(self, parameters: bytes, payload: bytes | memoryview, layout: Layout) -> Float32:
        """Follow the trellis that the parameters name."""
        state_bits, step, membership, quantisers = _unpack(parameters, layout)
        slots = list(zip(layout.slots, membership.tolist(), strict=True))
        sizes = [sum(slot.size for slot, member in slots if member == group + 1) for group in range(len(quantisers))]
        index, quantiser = _read(payload, quantisers, sizes, Trellis(state_bits))
        flat = np.zeros(layout.size, np.float32)
        start = 0
        for group, each in enumerate(quantisers):
            part = slice(start, start := start + sizes[group])
            numbers = each.restore(index[part], quantiser[part]) * step
            for slot, member in slots:
                if member == group + 1:
                    flat[slot.offset : slot.offset + slot.size], numbers = numbers[: slot.size], numbers[slot.size :]
        return flat

    def max_payload_bytes(self, layout: Layout) -> int:
        """Two bytes a number and 128 KiB of parameters."""
        return 2 * layout.size + (1 << 17)


def _rows(sizes: Sequence[int]) -> Iterator[tuple[int, slice]]:
    """What is coded together: each step of all lanes, cut where one group ends and the next begins."""
    total = sum(sizes)
    lanes = lanes_of(total)
    start, end = 0, 0
    for group, size in enumerate(sizes):
        end += size
        while start < end:
            stop = min(end, start - start % lanes + lanes)
            yield group, slice(start, stop)
            start = stop


def _read(
    payload: bytes | memoryview, quantisers: Sequence[Quantisers], sizes: Sequence[int], trellis: Trellis
) -> tuple[Index, Quantiser]:
    reader = RangeReader(payload)
    models = [_models(each) for each in quantisers]
    lanes = lanes_of(sum(sizes))
    index, quantiser = np.empty(sum(sizes), np.int32), np.empty(sum(sizes), np.uint8)
    state = trellis.first(lanes)
    for group, part in _rows(sizes):
        row, first_lane = index[part], part.start % lanes
        now = state[first_lane : first_lane + row.size]
        odd = (now & 1).astype(bool)
        ones = int(odd.sum())
        row[~odd] = reader.read(row.size - ones, models[group][0])
        row[odd] = reader.read(ones, models[group][1])
        row -= quantisers[group].largest
        quantiser[part] = odd
        now[:] = trellis.following.take(2 * now + (row & 1))
    reader.finish()
    return index, quantiser


def _models(quantisers: Quantisers) -> tuple[Model, Model]:
    return model_of(quantisers.frequencies(0)), model_of(quantisers.frequencies(1))


def _group_by_scale(delta: AdapterState) -> NDArray[np.uint8]:
    """(tensors,) 0 for a tensor of zeros, else 1 … 15 by its root mean square, loudest first.

    A group spans at least a quarter of an octave; what is 40 dB below the loudest is all one.
    """
    squares = np.square(delta.flat, dtype=np.float64)
    energy = np.array([squares[s.offset : s.offset + s.size].sum() / max(1, s.size) for s in delta.layout.slots])
    heard = energy > 0
    membership = np.zeros(energy.size, np.uint8)
    if heard.any():
        below = np.minimum(np.log2(energy.max() / energy[heard]) / 2, 7.0)  # octaves
        width = max(0.25, float(below.max()) / (MAX_GROUPS - 0.5))
        _, membership[heard] = np.unique((below / width).astype(np.uint8), return_inverse=True)
        membership[heard] += 1
    return membership


def _gather(flat: Float32, layout: Layout, membership: NDArray[np.uint8], group: int) -> Float32:
    members = zip(layout.slots, membership, strict=True)
    return np.concatenate([flat[s.offset : s.offset + s.size] for s, g in members if g == group])


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

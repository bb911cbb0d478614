"""What others send: the usual ways to make a delta small, implemented plainly. For comparison only.

Each packs into real bytes and unpacks from those and the layout alone. None is part of the wire format.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from plait.adapters import AdapterState, Layout
from plait.adapters.state import Float32


class Baseline(Protocol):
    """A way to pack a delta."""

    def pack(self, delta: AdapterState) -> bytes:
        """The bytes to send."""
        ...

    def unpack(self, data: bytes, layout: Layout) -> Float32:
        """(layout.size,) as decoded by the receiver."""
        ...


class TopK:
    """One of 64 numbers, the largest, as float32 with 32-bit indices: one bit per parameter (Aji and Heafield 2017)."""

    def pack(self, delta: AdapterState) -> bytes:
        """Indices, then values."""
        kept = max(1, delta.flat.size // 64)
        index = np.sort(np.argpartition(np.abs(delta.flat), -kept)[-kept:]).astype("<u4")
        return index.tobytes() + delta.flat[index].astype("<f4").tobytes()

    def unpack(self, data: bytes, layout: Layout) -> Float32:
        """Zeros except for those."""
        index, values = np.frombuffer(data, "<u4", len(data) // 8), np.frombuffer(data, "<f4", -1, len(data) // 2)
        flat = np.zeros(layout.size, np.float32)
        flat[index] = values
        return flat


class Int8:
    """Eight bits per parameter, one scale per tensor: its greatest magnitude becomes 127."""

    def pack(self, delta: AdapterState) -> bytes:
        """Scales, then bytes."""
        scales = np.array([_greatest(tensor) / 127 for _, tensor in delta.items()], "<f4")
        each = _spread(scales, delta.layout)
        return (
            scales.tobytes() + np.rint(np.divide(delta.flat, each, where=each > 0, out=0 * each)).astype("i1").tobytes()
        )

    def unpack(self, data: bytes, layout: Layout) -> Float32:
        """Bytes times scales."""
        scales = np.frombuffer(data, "<f4", len(layout.slots))
        return np.frombuffer(data, "i1", -1, scales.nbytes) * _spread(scales, layout)


class Nf4:
    """Four bits per parameter and a float32 scale for each block of 64 (Dettmers et al., QLoRA, arXiv 2305.14314)."""

    block = 64

    def pack(self, delta: AdapterState) -> bytes:
        """Scales, then two parameters per byte."""
        rows = np.pad(delta.flat, (0, -delta.flat.size % self.block)).reshape(-1, self.block)
        scales = np.abs(rows).max(axis=1, keepdims=True).astype("<f4")
        level = np.divide(rows, scales, where=scales > 0, out=np.zeros_like(rows))
        code = np.searchsorted((_NF4[1:] + _NF4[:-1]) / 2, level.ravel()).astype(np.uint8)
        return scales.tobytes() + (code[::2] | code[1::2] << 4).astype(np.uint8).tobytes()

    def unpack(self, data: bytes, layout: Layout) -> Float32:
        """Levels times scales."""
        blocks = -(-layout.size // self.block)
        scales, pairs = np.frombuffer(data, "<f4", blocks), np.frombuffer(data, np.uint8, -1, 4 * blocks)
        level = _NF4[np.stack([pairs & 15, pairs >> 4], axis=1).ravel()].reshape(blocks, self.block)
        return (level * scales[:, None]).ravel()[: layout.size]


class Sign:
    """One bit per parameter, one scale per tensor: its mean magnitude (Bernstein et al., signSGD, arXiv 1802.04434)."""

    def pack(self, delta: AdapterState) -> bytes:
        """Scales, then eight parameters per byte."""
        scales = np.array([np.abs(tensor).mean() if tensor.size else 0 for _, tensor in delta.items()], "<f4")
        return scales.tobytes() + np.packbits(delta.flat < 0).tobytes()

    def unpack(self, data: bytes, layout: Layout) -> Float32:
        """Scales with signs."""
        scales = np.frombuffer(data, "<f4", len(layout.slots))
        negative = np.unpackbits(np.frombuffer(data, np.uint8, -1, scales.nbytes), count=layout.size)
        return _spread(scales, layout) * (1 - 2 * negative.astype(np.float32))


BASELINES: Mapping[str, Baseline] = {"top-k": TopK(), "int8": Int8(), "nf4": Nf4(), "sign": Sign()}

_NF4 = np.array(
    [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
     -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
     0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0],
    np.float32,
)  # fmt: skip


def _greatest(tensor: NDArray[np.float32]) -> float:
    return float(np.abs(tensor).max(initial=0))


def _spread(scales: Float32, layout: Layout) -> Float32:
    return np.repeat(scales, [slot.size for slot in layout.slots]).astype(np.float32)

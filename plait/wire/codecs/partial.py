"""A codec for some of the tensors: all-zero tensors are not sent, the others are packed by another codec.

A tensor that is not sent costs one bit. For a rule that freezes one side of every low-rank pair this halves the bytes,
and an untrained layer costs nothing. (`rate` does not need it: its groups leave zeros out.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plait.adapters import AdapterState, Layout
from plait.adapters.state import Float32
from plait.errors import PeerError
from plait.wire.codec import Codec, EncodedPayload
from plait.wire.codecs.bf16 import BF16
from plait.wire.codecs.fp32 import FP32

_BITS = "little"  # the first tensor is the lowest bit of the first byte


@dataclass(frozen=True)
class Partial:
    """Packs the tensors with any value other than +0.

    Attributes:
        number: its value in plait.v1.Codec.
        inner: packs the tensors sent; a codec without parameters.
    """

    name: str
    number: int
    inner: Codec

    @property
    def bits(self) -> float:
        """Of the inner codec."""
        return self.inner.bits

    @property
    def distortion(self) -> float:
        """Of the inner codec."""
        return self.inner.distortion

    def saves(self, delta: AdapterState) -> bool:
        """Whether this delta takes fewer bytes here than with the inner codec."""
        travelling = _travelling(delta)
        left_out = sum(slot.size for slot, goes in zip(delta.layout.slots, travelling, strict=True) if not goes)
        return left_out > _mask_bytes(delta.layout)  # a number takes more than a byte

    def encode(self, delta: AdapterState) -> EncodedPayload:
        """The tensors to send, and their values."""
        travelling = _travelling(delta)
        tensors = zip(delta.items(), travelling, strict=True)
        kept = [tensor.ravel() for (_, tensor), goes in tensors if goes]
        part = AdapterState(_part(delta.layout, travelling), np.concatenate([np.empty(0, np.float32), *kept]))
        return EncodedPayload(np.packbits(travelling, bitorder=_BITS).tobytes(), self.inner.encode(part).payload)

    def decode(self, parameters: bytes, payload: bytes | memoryview, layout: Layout) -> Float32:
        """Zeros for the tensors not sent."""
        expected = _mask_bytes(layout)
        if len(parameters) != expected:
            raise PeerError(f"{self.name} parameters have {len(parameters)} bytes, expected {expected}")
        bits = np.unpackbits(np.frombuffer(parameters, np.uint8), bitorder=_BITS).astype(bool)
        travelling = bits[: len(layout.slots)]
        if bits[travelling.size :].any():
            raise PeerError(f"{self.name} parameters name more than the {travelling.size} tensors that there are")
        part = _part(layout, travelling)
        numbers = self.inner.decode(b"", payload, part)
        flat = np.zeros(layout.size, np.float32)
        for slot in part.slots:
            start = layout.by_name[slot.name].offset
            flat[start : start + slot.size] = numbers[slot.offset : slot.offset + slot.size]
        return flat

    def max_payload_bytes(self, layout: Layout) -> int:
        """All tensors and a bit for each."""
        return _mask_bytes(layout) + self.inner.max_payload_bytes(layout)


FP32_PARTIAL, BF16_PARTIAL = Partial("fp32_partial", 9, FP32), Partial("bf16_partial", 10, BF16)


def _travelling(delta: AdapterState) -> NDArray[np.bool_]:
    # Bits, not values: -0.0 is not zero here, so exact codecs stay exact.
    return np.array([tensor.view(np.uint32).any() for _, tensor in delta.items()], np.bool_)


def _part(layout: Layout, travelling: NDArray[np.bool_]) -> Layout:
    return Layout.of({slot.name: slot.shape for slot, goes in zip(layout.slots, travelling, strict=True) if goes})


def _mask_bytes(layout: Layout) -> int:
    return -(-len(layout.slots) // 8)

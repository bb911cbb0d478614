"""Codecs that pack each number by itself: `fp32`, `bf16`, and both without tensors that are all zeros.

A tensor that is not sent costs one bit, so a rule that freezes one side of every low-rank pair sends half the bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plait.adapters import AdapterState, Layout
from plait.adapters.state import Float32
from plait.errors import PeerError
from plait.wire.codec import Codec, EncodedPayload


class Fp32:
    """Packs every number unchanged."""

    name = "fp32"
    number = 2
    bits = 32.0
    distortion = 0.0

    def encode(self, delta: AdapterState) -> EncodedPayload:
        """4 bytes a number."""
        return EncodedPayload(b"", delta.flat.astype("<f4", copy=False).tobytes())

    def decode(self, parameters: bytes, payload: bytes | memoryview, layout: Layout) -> Float32:
        """A view of the payload (on little-endian machines)."""
        _check_size(self, parameters, payload, layout)
        flat = np.frombuffer(payload, "<f4").astype(np.float32, copy=False)
        if not np.isfinite(flat).all():
            raise PeerError("fp32 payload holds NaN or infinity")
        return flat

    def max_payload_bytes(self, layout: Layout) -> int:
        """4 · layout.size."""
        return 4 * layout.size


_EXPONENT = np.uint16(0x7F80)
_LARGEST = np.array(0x7F7F0000, np.uint32).view(np.float32)[()]  # larger values would round to infinity


class Bf16:
    """Packs every number with 8 bits of precision and the full range of float32."""

    name = "bf16"
    number = 3
    bits = 16.0
    distortion = 0.0

    def encode(self, delta: AdapterState) -> EncodedPayload:
        """2 bytes per number; magnitudes beyond the largest bfloat16 are clamped to it."""
        bits = np.clip(delta.flat, -_LARGEST, _LARGEST).view(np.uint32)
        # Half a unit in the last place kept, minus one if that place is even: ties then round to even.
        half = bits >> np.uint32(16)
        half &= np.uint32(1)
        half += np.uint32(0x7FFF)
        bits += half
        bits >>= np.uint32(16)
        return EncodedPayload(b"", bits.astype("<u2").tobytes())

    def decode(self, parameters: bytes, payload: bytes | memoryview, layout: Layout) -> Float32:
        """Exact: every bfloat16 is a float32."""
        _check_size(self, parameters, payload, layout)
        halves = np.frombuffer(payload, "<u2")
        if ((halves & _EXPONENT) == _EXPONENT).any():
            raise PeerError("bf16 payload holds NaN or infinity")
        bits = halves.astype(np.uint32)
        bits <<= np.uint32(16)
        return bits.view(np.float32)

    def max_payload_bytes(self, layout: Layout) -> int:
        """2 · layout.size."""
        return 2 * layout.size


def _check_size(codec: Codec, parameters: bytes, payload: bytes | memoryview, layout: Layout) -> None:
    expected = codec.max_payload_bytes(layout)
    if parameters or len(payload) != expected:
        raise PeerError(
            f"{codec.name} payload has {len(payload)} bytes and {len(parameters)} of parameters, expected {expected} "
            "and none"
        )


FP32, BF16 = Fp32(), Bf16()
_BITS = "little"  # the first tensor is the lowest bit of the first byte


@dataclass(frozen=True)
class Partial:
    """Packs the tensors with any value other than +0 by `inner`, a codec without parameters."""

    name: str
    number: int
    bits: float
    inner: Codec

    distortion = 0.0

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


FP32_PARTIAL, BF16_PARTIAL = Partial("fp32_partial", 9, 32.0, FP32), Partial("bf16_partial", 10, 16.0, BF16)


def _travelling(delta: AdapterState) -> NDArray[np.bool_]:
    # Bits, not values: -0.0 is not zero here, so exact codecs stay exact.
    return np.array([tensor.view(np.uint32).any() for _, tensor in delta.items()], np.bool_)


def _part(layout: Layout, travelling: NDArray[np.bool_]) -> Layout:
    return Layout.of({slot.name: slot.shape for slot, goes in zip(layout.slots, travelling, strict=True) if goes})


def _mask_bytes(layout: Layout) -> int:
    return -(-len(layout.slots) // 8)

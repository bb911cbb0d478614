"""bfloat16: the upper half of every float32, rounded to nearest, ties to even; two little-endian bytes per number."""

from __future__ import annotations

import numpy as np

from plait.adapters import AdapterState, Layout
from plait.adapters.state import Float32
from plait.errors import PeerError
from plait.wire.codec import EncodedPayload

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
        if parameters or len(payload) != 2 * layout.size:
            raise PeerError(
                f"bf16 payload has {len(payload)} bytes and {len(parameters)} of parameters, "
                f"expected {2 * layout.size} and none"
            )
        halves = np.frombuffer(payload, "<u2")
        if ((halves & _EXPONENT) == _EXPONENT).any():
            raise PeerError("bf16 payload holds NaN or infinity, expected finite values")
        bits = halves.astype(np.uint32)
        bits <<= np.uint32(16)
        return bits.view(np.float32)

    def max_payload_bytes(self, layout: Layout) -> int:
        """2 · layout.size."""
        return 2 * layout.size


BF16 = Bf16()

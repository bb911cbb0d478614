"""Exact float32: four little-endian bytes per number, in layout order."""

from __future__ import annotations

import numpy as np

from plait.adapters import AdapterState, Layout
from plait.adapters.state import Float32
from plait.errors import PeerError
from plait.wire.codec import EncodedPayload


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
        if parameters or len(payload) != 4 * layout.size:
            raise PeerError(
                f"fp32 payload has {len(payload)} bytes and {len(parameters)} of parameters, "
                f"expected {4 * layout.size} and none"
            )
        flat = np.frombuffer(payload, "<f4").astype(np.float32, copy=False)
        if not np.isfinite(flat).all():
            raise PeerError("fp32 payload holds NaN or infinity, expected finite values")
        return flat

    def max_payload_bytes(self, layout: Layout) -> int:
        """4 · layout.size."""
        return 4 * layout.size


FP32 = Fp32()

"""The codec of an all-zero delta: no bytes at all."""

from __future__ import annotations

import numpy as np

from plait.adapters import AdapterState, Layout
from plait.adapters.state import Float32
from plait.errors import PeerError
from plait.wire.codec import EncodedPayload


class Unchanged:
    """Packs zeros into nothing."""

    name = "unchanged"
    number = 1
    bits = 0.0
    distortion = 0.0

    def encode(self, delta: AdapterState) -> EncodedPayload:
        """Pack zeros; anything else is the caller's mistake."""
        if delta.flat.any():
            raise ValueError("the delta holds numbers other than zero")
        return EncodedPayload(b"", b"")

    def decode(self, parameters: bytes, payload: bytes | memoryview, layout: Layout) -> Float32:
        """(layout.size,) zeros."""
        if parameters or len(payload):
            raise PeerError(
                f"payload of an unchanged adapter has {len(parameters) + len(payload)} bytes, expected none"
            )
        return np.zeros(layout.size, np.float32)

    def max_payload_bytes(self, layout: Layout) -> int:  # noqa: ARG002
        """None."""
        return 0


UNCHANGED = Unchanged()

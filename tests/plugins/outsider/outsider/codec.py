"""One byte per number: multiples of one step, which the parameters hold as a float32."""

import struct

import numpy as np

from plait.adapters import AdapterState, Layout
from plait.errors import PeerError
from plait.wire.codec import EncodedPayload

_STEP = struct.Struct("<f")


class Uniform8:
    """Rounds every number to a multiple of one step."""

    name = "uniform8"
    number = 1008
    bits = 8.0
    distortion = 1e-3

    def encode(self, delta: AdapterState) -> EncodedPayload:
        """A byte per number."""
        step = np.float32(max(np.abs(delta.flat).max() / 127, 1e-30))
        return EncodedPayload(_STEP.pack(step), np.rint(delta.flat / step).astype(np.int8).tobytes())

    def decode(self, parameters: bytes, payload: bytes | memoryview, layout: Layout) -> np.ndarray:
        """Multiples of the step."""
        if len(parameters) != _STEP.size or len(payload) != layout.size:
            raise PeerError(f"uniform8 payload has {len(payload)} bytes, expected {layout.size}")
        (step,) = _STEP.unpack(parameters)
        if not 0 < step < 1e36:
            raise PeerError(f"uniform8 step is {step:g}, expected more than 0 and less than 1e36")
        return np.frombuffer(payload, np.int8) * np.float32(step)

    def max_payload_bytes(self, layout: Layout) -> int:
        """A byte per number, and the step."""
        return layout.size + _STEP.size

"""A delta packed by a codec, and what that loses. Knows no envelope and no message."""

import time
from dataclasses import dataclass

import numpy as np

from plait.adapters import AdapterState, Layout, check_finite, norm
from plait.wire.codec import Codec, EncodedPayload
from plait.wire.codecs import without_zeros


@dataclass(frozen=True)
class Encoding:
    """Size and error of a packed delta.

    Attributes:
        payload_bytes: bytes of the numbers, with the codec's parameters.
        envelope_bytes: bytes of the whole envelope; 0 before there is one.
        bits_per_parameter: 8 · payload_bytes / size of the adapter.
        distortion: ||x - x̂||² / ||x||² of the delta x and the decoded x̂; None at the receiver.
        codec_s: seconds of packing and unpacking (at the receiver: of unpacking).
    """

    codec: str
    payload_bytes: int
    envelope_bytes: int
    bits_per_parameter: float
    distortion: float | None
    codec_s: float


@dataclass(frozen=True)
class EncodedDelta:
    """A packed delta, and as the receiver will decode it, bit for bit."""

    codec: Codec
    packed: EncodedPayload
    delta: AdapterState
    encoding: Encoding


def encode_delta(delta: AdapterState, codec: Codec) -> EncodedDelta:
    """Pack a delta, and unpack it as the receiver will; tensors that are all zeros cost next to nothing."""
    check_finite(delta)
    codec = without_zeros(codec, delta)
    started = time.perf_counter()
    packed = codec.encode(delta)
    flat = packed.decoded
    if flat is None:
        flat = codec.decode(packed.parameters, packed.payload, delta.layout)
    decoded = AdapterState(delta.layout, flat)
    codec_s, bits = time.perf_counter() - started, bits_per_parameter(packed.size_bytes, delta.layout)
    encoding = Encoding(codec.name, packed.size_bytes, 0, bits, _distortion(delta, decoded), codec_s)
    return EncodedDelta(codec, packed, decoded, encoding)


def bits_per_parameter(payload_bytes: int, layout: Layout) -> float:
    """Of all parameters of the layout."""
    return 8 * payload_bytes / layout.size if layout.size else 0.0


def _distortion(delta: AdapterState, decoded: AdapterState) -> float:
    energy = norm(delta) ** 2
    error = np.subtract(delta.flat, decoded.flat, dtype=np.float64)
    return float(error @ error) / energy if energy else 0.0

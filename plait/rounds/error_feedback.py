"""Error feedback: what an encoder drops is added to what it encodes next, at clients and at the server.

EF-SGD (Karimireddy et al., "Error Feedback Fixes SignSGD and other Gradient Compression Schemes", arXiv 1901.09847,
algorithm 2) on adapter deltas: with delta d, residual e and codec C, send C(d + e), keep e' = (d + e) - C(d + e).

A codec that decodes to the conditional mean shrinks: of w arrives (1 - D) w plus noise of energy D (1 - D) |w|^2, where
D is its relative distortion. Fed back, that is not lost but late: under a steady drift d the receiver lags D / (1 - D)
rounds, on each link. So what is encoded is first multiplied by a gain g (the codec is blind to scale, so the bytes stay
the same). With a = 1 - g (1 - D) the lag is a / (1 - a) rounds, and the residual's noise obeys
N' = (a^2 + g^2 D (1 - D)) N + g^2 D (1 - D) |d|^2. The gain 1 / (1 - D) removes the lag; it is taken as far as the
factor before N stays below `_MOST_NOISE_KEPT`, for above 1 the feedback would explode.

A client keeps what it owes in a `Past`, so that a round that is asked for twice starts from the same.
"""

from __future__ import annotations

import math

import numpy as np

from plait.adapters import AdapterState, Layout
from plait.wire.codec import Codec
from plait.wire.envelope import EncodedDelta, encode_delta

_MOST_NOISE_KEPT = 0.8


def encode_with_gain(wanted: AdapterState, codec: Codec) -> EncodedDelta:
    """Encode so that what arrives is not smaller than what is wanted, as far as the feedback stays stable.

    What the encoding drops, `wanted` minus the encoded delta, is the caller's to keep and to add next time.
    """
    gain = feedback_gain(codec.distortion)
    if gain == 1:
        return encode_delta(wanted, codec)
    return encode_delta(AdapterState(wanted.layout, wanted.flat * np.float32(gain)), codec)


def feedback_gain(distortion: float) -> float:
    """The gain for a codec of this relative distortion (see above)."""
    if distortion <= 0:
        return 1.0
    unbiased = 1 / (1 - distortion)
    room = 1 - (1 - _MOST_NOISE_KEPT) / (1 - distortion)
    # The larger root of 1 - 2 g (1 - D) + g^2 (1 - D) = _MOST_NOISE_KEPT; without one, feedback stays as it is.
    return min(unbiased, 1 + math.sqrt(room)) if room > 0 else 1.0


def owed(data: bytes, layout: Layout) -> AdapterState:
    """What `owed_bytes` kept; nothing is owed where it is lost or of another adapter."""
    if len(data) != 4 * layout.size:
        return AdapterState.zeros(layout)
    return AdapterState(layout, np.frombuffer(data, "<f4").astype(np.float32))


def owed_bytes(left: AdapterState) -> bytes:
    """What an encoding left behind, for a client's memory; empty for nothing."""
    return left.flat.astype("<f4").tobytes() if left.flat.any() else b""

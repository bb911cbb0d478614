"""Error feedback: what a message did not bring goes with the next one.

The error of an encoding is added to the next input, at clients and at the server. EF-SGD
(Karimireddy et al., arXiv 1901.09847, algorithm 2) on adapter deltas: with delta d, residual e and codec C, send
C(d + e), keep e' = (d + e) - C(d + e). A codec that decodes to the conditional mean shrinks: of w arrives (1 - D) w
plus noise of energy D (1 - D) |w|^2, where D is its relative distortion. With feedback that part lags D / (1 - D)
rounds on each link, which a gain g removes: the input is first multiplied by it (the codec is scale-invariant). With
a = 1 - g (1 - D) the lag is a / (1 - a) rounds, and the residual's noise obeys N' = (a^2 + g^2 D (1 - D)) N +
g^2 D (1 - D) |d|^2. The gain 1 / (1 - D) leaves no lag; if the factor of N exceeds 1, the feedback diverges.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from plait.adapters import AdapterState, add, subtract
from plait.wire.codec import Codec
from plait.wire.encoding import EncodedDelta, encode_delta

_MOST_NOISE_KEPT = 0.8


def pack(
    delta: AdapterState,
    codec: Codec,
    *,
    owed: AdapterState | None = None,
    only: Callable[[AdapterState], AdapterState] = lambda wanted: wanted,
) -> tuple[EncodedDelta, AdapterState]:
    """Pack what is pending, the delta and what is owed; and what is owed then.

    Args:
        owed: what earlier messages have not delivered; None for nothing.
        only: the part of it that is sent; the rest stays owed.

    Raises:
        PeerError: it holds a NaN or an infinity.
    """
    pending = delta if owed is None else add(owed, delta)
    gain = feedback_gain(codec.distortion)
    wanted = pending if gain == 1 else AdapterState(pending.layout, pending.flat * np.float32(gain))
    encoded = encode_delta(only(wanted), codec)
    return encoded, subtract(pending, encoded.delta)


def unshrunk(delta: AdapterState, codec: Codec) -> AdapterState:
    """The input that decodes to `delta` on average, without feedback: what shrinks by 1 - D is multiplied before."""
    return AdapterState(delta.layout, delta.flat * np.float32(1 / (1 - codec.distortion)))


def feedback_gain(distortion: float) -> float:
    """The gain for a codec of this relative distortion (see above)."""
    if distortion <= 0:
        return 1.0
    unbiased = 1 / (1 - distortion)
    room = 1 - (1 - _MOST_NOISE_KEPT) / (1 - distortion)
    # The larger root of 1 - 2 g (1 - D) + g^2 (1 - D) = _MOST_NOISE_KEPT; without one the feedback has no gain.
    return min(unbiased, 1 + math.sqrt(room)) if room > 0 else 1.0

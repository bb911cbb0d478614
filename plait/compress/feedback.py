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
from collections.abc import Callable, Mapping

import numpy as np

from plait.adapters import AdapterState, Float32, add, subtract
from plait.compress.message import Arrays, CompressedDelta, Content, Form, Part, arrays_of, state_of
from plait.errors import ConfigError
from plait.wire.codec import Codec
from plait.wire.codecs import CODECS, Rate
from plait.wire.codecs.rate import GREATEST_BITS, LEAST_BITS
from plait.wire.encoding import EncodedDelta, encode_delta

RAW = "raw"
_MOST_NOISE_KEPT = 0.8


class Compressor:
    """Packs one sender's deltas, and keeps what each has not delivered for the next.

    Nothing is drawn at random: on one machine the same deltas in the same order give the same messages.

    Args:
        bits: for each number, 1 to 8, or "raw" for float32 as it is.
        feedback: whether the error of a message goes with the next one; without, nothing is kept.
        owed: what earlier messages have not delivered; None for nothing.
    """

    def __init__(
        self, bits: float | str | Codec = 1, *, feedback: bool = True, owed: AdapterState | None = None
    ) -> None:
        self.codec = codec_of(bits)
        self.owed = owed
        self._feedback = feedback
        self._form: Form = {}

    def encode(self, delta: Arrays) -> CompressedDelta:
        """The message of a change: float arrays of numpy, or tensors of torch, by name.

        Raises:
            DataError: one is not of floats, or holds a NaN or an infinity; nothing has changed then.
            ConfigError: names or shapes are not those of the deltas before.
        """
        form, state = state_of(delta)
        if self.owed is not None and self.owed.layout.digest != state.layout.digest:
            raise ConfigError("delta has other names or shapes than the ones before: give it a Compressor of its own")
        encoded = self.pack(state)
        self._form = form
        message = CompressedDelta(Content([Part.of(encoded)], form).to_bytes())
        message.distortion = encoded.encoding.distortion or 0.0
        message.bits = 8 * len(message) / max(1, state.layout.size)
        return message

    def pack(
        self, delta: AdapterState, only: Callable[[AdapterState], AdapterState] = lambda wanted: wanted
    ) -> EncodedDelta:
        """Pack what is pending: the delta, and what is owed.

        Args:
            only: the part of it that is sent; the rest stays owed.

        Raises:
            PeerError: it holds a NaN or an infinity.
        """
        if not self._feedback:
            return encode_delta(only(delta), self.codec)
        pending = delta if self.owed is None else add(self.owed, delta)
        gain = feedback_gain(self.codec.distortion)
        wanted = pending if gain == 1 else AdapterState(pending.layout, pending.flat * np.float32(gain))
        encoded = encode_delta(only(wanted), self.codec)
        self.owed = subtract(pending, encoded.delta)
        return encoded

    def state_dict(self) -> dict[str, Float32]:
        """What is owed, in float32 by name; empty before the first message."""
        return {} if self.owed is None else arrays_of(self.owed, _in_float32(self.owed, self._form))

    def load_state_dict(self, state: Mapping[str, Float32]) -> None:
        """Go on from where another one was; DataError if these are no float arrays."""
        self._form, self.owed = state_of(state) if state else ({}, None)


def codec_of(bits: float | str | Codec) -> Codec:
    """The codec of so many bits; ConfigError if there is none."""
    if bits == RAW:
        return CODECS["fp32"]
    if isinstance(bits, int | float) and LEAST_BITS <= bits <= GREATEST_BITS:
        return Rate(float(bits))
    if isinstance(bits, int | float | str):
        raise ConfigError(f"bits is {bits!r}, expected {LEAST_BITS} to {GREATEST_BITS}, or '{RAW}'")
    return bits


def _in_float32(state: AdapterState, form: Form) -> Form:
    names = form or state.layout.by_name
    return {name: (state.layout.by_name[name].shape, "float32") for name in names}


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

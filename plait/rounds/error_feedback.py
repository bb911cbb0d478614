"""Error feedback: what an encoder drops is added to what it encodes next, at clients and at the server.

EF-SGD (Karimireddy et al., "Error Feedback Fixes SignSGD and other Gradient Compression Schemes", arXiv 1901.09847,
algorithm 2) on adapter deltas: with delta d, residual e and codec C, send C(d + e), keep e' = (d + e) - C(d + e).

A codec that decodes to the conditional mean shrinks: of w arrives (1 - D) w plus noise of energy D (1 - D) |w|^2, where
D is its relative distortion. Fed back, that is not lost but late: under a steady drift d the receiver lags D / (1 - D)
rounds, on each link. So what is encoded is first multiplied by a gain g (the codec is blind to scale, so the bytes stay
the same). With a = 1 - g (1 - D) the lag is a / (1 - a) rounds, and the residual's noise obeys
N' = (a^2 + g^2 D (1 - D)) N + g^2 D (1 - D) |d|^2. The gain 1 / (1 - D) removes the lag; it is taken as far as the
factor before N stays below `_MOST_NOISE_KEPT`, for above 1 the feedback would explode.

A round may be asked for twice (the server was killed before it had the answer), so a client keeps two residuals, the
one that the newest round started from and the one that it left behind; a repeated round starts from the former again.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import numpy as np

from plait.adapters import AdapterState, Layout
from plait.wire.codec import Codec
from plait.wire.envelope import EncodedDelta, encode_delta

_MOST_NOISE_KEPT = 0.8

_HEAD = struct.Struct("<16sIB")  # run id, round that left it behind, whether it is not zero


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


@dataclass(frozen=True)
class Residual:
    """What a client still owes its server.

    Attributes:
        run_id: the run that it belongs to, 16 bytes.
        before_round: the round that left `before` behind; 0 for none.
        before: what the newest round started from.
        after_round: the newest round.
        after: what it left behind.
    """

    run_id: bytes
    before_round: int
    before: AdapterState
    after_round: int
    after: AdapterState

    @classmethod
    def none(cls, run_id: bytes, layout: Layout) -> Residual:
        """The residual of a client that has sent nothing yet."""
        zero = AdapterState.zeros(layout)
        return cls(run_id, 0, zero, 0, zero)

    def owed_in(self, round_number: int) -> AdapterState:
        """What has to be added to the delta of a round, whether it is asked for the first time or again."""
        return self.before if round_number <= self.after_round else self.after

    def settled(self, round_number: int, left: AdapterState) -> Residual:
        """The residual once the round has left `left` behind."""
        if round_number <= self.after_round:
            return Residual(self.run_id, self.before_round, self.before, round_number, left)
        return Residual(self.run_id, self.after_round, self.after, round_number, left)

    def to_bytes(self) -> bytes:
        """For a client's memory."""
        return b"".join(
            _HEAD.pack(self.run_id, number, bool(state.flat.any()))
            + (state.flat.tobytes() if state.flat.any() else b"")
            for number, state in ((self.before_round, self.before), (self.after_round, self.after))
        )


def residual_from_bytes(data: bytes | None, run_id: bytes, layout: Layout) -> Residual:
    """What `Residual.to_bytes` kept; nothing is owed where it is lost, or of another run or adapter."""
    none = Residual.none(run_id, layout)
    if data is None:
        return none
    parts: list[tuple[int, AdapterState]] = []
    offset = 0
    try:
        for _ in range(2):
            kept_run, number, is_there = _HEAD.unpack_from(data, offset)
            offset += _HEAD.size
            if kept_run != run_id:
                return none
            state = AdapterState.zeros(layout)
            if is_there:
                state = AdapterState(layout, np.frombuffer(data, "<f4", layout.size, offset).astype(np.float32))
                offset += 4 * layout.size
            parts.append((number, state))
    except (struct.error, ValueError):
        return none
    if offset != len(data):
        return none
    (before_round, before), (after_round, after) = parts
    return Residual(run_id, before_round, before, after_round, after)

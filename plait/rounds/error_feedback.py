"""Error feedback: what an encoder drops is added to what it encodes next, at clients and at the server.

EF-SGD (Karimireddy et al., "Error Feedback Fixes SignSGD and other Gradient Compression Schemes", arXiv 1901.09847,
algorithm 2) on adapter deltas: with delta d, residual e and codec C, send C(d + e), keep e' = (d + e) - C(d + e).

A codec that decodes to the conditional mean shrinks: of w arrives (1 - D) w plus noise of energy D (1 - D) |w|^2, where
D is its relative distortion. Fed back, that is not lost but late: under a steady drift d the receiver lags D / (1 - D)
rounds, on each link. Lag costs a run far more than noise does, and there are two ways to remove it.

*Gain.* What is encoded is first multiplied by g (the codec is blind to scale, so the bytes stay the same). With a = 1 -
g (1 - D) the lag is a / (1 - a) rounds, and the residual's noise obeys N' = (a^2 + g^2 D (1 - D)) N + g^2 D (1 - D)
|d|^2. The gain 1 / (1 - D) leaves no lag; for a factor before N above 1 the feedback would explode.

*Lead.* Where that gain is too much, only what lies in the direction of the drift v, the mean movement of the last
rounds, is multiplied by it: what is encoded is w + D / (1 - D) (w v / v v) v with w = d + e. The lag lies in that
direction and goes, even where D is not quite what was expected; the noise lies in all others and is not amplified. So
the factor before N is D, the least that any gain could reach, whatever the rate.

Knows no envelope's header and no client; where residual and drift are kept is the caller's affair.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from plait.adapters import AdapterState, Float32, Layout, add, subtract
from plait.aggregation import BOTH_SIDES, Side, geometry_of
from plait.rounds.client_state import Kept
from plait.rounds.hook import Outgoing
from plait.rounds.local_model import TrainJob
from plait.rounds.own_side import without
from plait.wire.codec import Codec
from plait.wire.codecs import codec_for
from plait.wire.envelope import encode_delta
from plait.wire.settings import Settings

_MOST_NOISE_KEPT = 0.8
_FURTHEST_AHEAD = 3.0  # rounds; below 0.24 bit a wish for more brings more noise than training stands
_DRIFT_KEPT = 0.7  # what is left of the drift before once a round's movement has come in


@dataclass(frozen=True, eq=False)
class Debt:
    """What an encoder owes its receiver.

    Attributes:
        owed: what was to be sent and has not arrived.
        drift: mean movement a round, newest rounds weighing most; None where it is not known or not needed.
    """

    owed: AdapterState
    drift: AdapterState | None = None

    def due(self, codec: Codec) -> AdapterState:
        """What to encode so that, steady drift given, all that is owed arrives."""
        distortion = codec.distortion
        if self.drift is None or not leads(codec):
            gain = feedback_gain(distortion)
            return self.owed if gain == 1 else AdapterState(self.owed.layout, self.owed.flat * np.float32(gain))
        wanted, drift = (each.flat.astype(np.float64) for each in (self.owed, self.drift))
        ahead = (
            min(distortion / (1 - distortion), _FURTHEST_AHEAD) * float(wanted @ drift) / (float(drift @ drift) or 1.0)
        )
        flat: Float32 = self.drift.flat * np.float32(ahead)
        flat += self.owed.flat
        return AdapterState(self.owed.layout, flat)

    def paid(self, arrived: AdapterState) -> Debt:
        """The debt once a receiver has decoded `arrived`."""
        return Debt(subtract(self.owed, arrived), self.drift)

    def grown(self, movement: AdapterState, codec: Codec) -> Debt:
        """The debt once there is so much more to send."""
        owed = add(self.owed, movement)
        return Debt(owed, drift_after(self.drift, movement) if leads(codec) else None)

    def kept(self) -> Kept:
        """As a client keeps it; empty for nothing."""
        arrays = {"owed": self.owed.flat} if self.drift is None else {"owed": self.owed.flat, "drift": self.drift.flat}
        return Kept(arrays=arrays if any(array.any() for array in arrays.values()) else {})

    @classmethod
    def of(cls, kept: Kept, layout: Layout) -> Debt:
        """What `kept` made; nothing is owed where it is lost or of another adapter."""
        owed, drift = kept.vector("owed", layout.size), kept.vector("drift", layout.size)
        if owed is None:
            return cls(AdapterState.zeros(layout))
        return cls(AdapterState(layout, owed), None if drift is None else AdapterState(layout, drift))


@dataclass(frozen=True)
class ErrorFeedback:
    """The hook that packs the delta together with what earlier rounds owe, and keeps what the packing drops."""

    key = "residual"

    def applies(self, settings: Settings) -> bool:
        """Where the next round's factors are the same."""
        return not settings.without_feedback

    def before(self, job: TrainJob, kept: Kept) -> TrainJob:
        """Training knows nothing of it."""
        del kept
        return job

    def after(self, job: TrainJob, kept: Kept, outgoing: Outgoing) -> tuple[Outgoing, Kept]:
        """Pack what is due."""
        codec = codec_for(job.settings.wire)
        debt = Debt.of(kept, outgoing.delta.layout).grown(outgoing.delta, codec)
        due = debt.due(codec)
        # What is owed on a side that does not train waits for the round that trains it.
        for side in BOTH_SIDES - set(map(Side, job.settings.trained)):
            due = without(due, geometry_of(job.spec), side)
        encoded = encode_delta(due, codec)
        return replace(outgoing, encoded=encoded), debt.paid(encoded.delta).kept()


def leads(codec: Codec) -> bool:
    """Whether this codec's lag is removed by a lead, since a gain would make the feedback unstable."""
    distortion = codec.distortion
    return distortion / (1 - distortion) > _MOST_NOISE_KEPT  # the noise's factor under the gain 1 / (1 - D)


def drift_after(drift: AdapterState | None, movement: AdapterState) -> AdapterState:
    """The mean movement a round once there was one more."""
    if drift is None:
        return movement
    flat: Float32 = drift.flat * np.float32(_DRIFT_KEPT)
    flat += movement.flat * np.float32(1 - _DRIFT_KEPT)
    return AdapterState(movement.layout, flat)


def feedback_gain(distortion: float) -> float:
    """The gain for a codec of this relative distortion where nothing is known of the drift (see above)."""
    if distortion <= 0:
        return 1.0
    unbiased = 1 / (1 - distortion)
    room = 1 - (1 - _MOST_NOISE_KEPT) / (1 - distortion)
    # The larger root of 1 - 2 g (1 - D) + g^2 (1 - D) = _MOST_NOISE_KEPT; without one, feedback stays as it is.
    return min(unbiased, 1 + math.sqrt(room)) if room > 0 else 1.0

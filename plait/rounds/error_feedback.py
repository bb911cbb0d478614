"""Error feedback: the error of an encoding is added to the next input, at clients and at the server.

EF-SGD (Karimireddy et al., "Error Feedback Fixes SignSGD and other Gradient Compression Schemes", arXiv 1901.09847,
algorithm 2) on adapter deltas: with delta d, residual e and codec C, send C(d + e), keep e' = (d + e) - C(d + e).

A codec that decodes to the conditional mean shrinks: of w arrives (1 - D) w plus noise of energy D (1 - D) |w|^2, where
D is its relative distortion. With feedback that part is not lost but late: under a steady drift d the receiver lags
D / (1 - D) rounds, on each link. Lag costs a run far more than noise does, and a gain removes it: the input is first
multiplied by g (the codec is scale-invariant, so the bytes stay the same). With a = 1 -
g (1 - D) the lag is a / (1 - a) rounds, and the residual's noise obeys N' = (a^2 + g^2 D (1 - D)) N + g^2 D (1 - D)
|d|^2. The gain 1 / (1 - D) leaves no lag; if the factor of N exceeds 1, the feedback diverges.

Knows no envelope's header and no client; callers store the residual.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from plait.adapters import AdapterState, Layout, add, subtract
from plait.aggregation import BOTH_SIDES, Side, geometry_of
from plait.rounds.hook import Outgoing
from plait.rounds.local_model import Grid, TrainJob
from plait.rounds.memory import Kept
from plait.rounds.own_adapter import without
from plait.wire.codec import Codec
from plait.wire.envelope import encode_delta
from plait.wire.settings import Settings

_MOST_NOISE_KEPT = 0.8


@dataclass(frozen=True, eq=False)
class Residual:
    """What an encoder has not yet delivered to its receiver.

    Attributes:
        pending: the part to be sent that has not arrived.
    """

    pending: AdapterState

    def to_encode(self, codec: Codec) -> AdapterState:
        """The input with which, under a steady drift, everything pending arrives."""
        gain, pending = feedback_gain(codec.distortion), self.pending
        return pending if gain == 1 else AdapterState(pending.layout, pending.flat * np.float32(gain))

    def after_sending(self, arrived: AdapterState) -> Residual:
        """The residual once a receiver has decoded `arrived`."""
        return Residual(subtract(self.pending, arrived))

    def plus(self, movement: AdapterState) -> Residual:
        """The residual with this much more to send."""
        return Residual(add(self.pending, movement))

    def kept(self) -> Kept:
        """The residual as stored; empty for none."""
        return Kept(arrays={"owed": self.pending.flat} if self.pending.flat.any() else {})

    @classmethod
    def of(cls, kept: Kept, layout: Layout) -> Residual:
        """The inverse of `kept`; zero if it is lost or of another adapter."""
        pending = kept.vector("owed", layout.size)
        return cls(AdapterState.zeros(layout) if pending is None else AdapterState(layout, pending))


@dataclass(frozen=True)
class ErrorFeedback:
    """The hook that packs the delta together with the residual of earlier rounds, and keeps the new residual."""

    key = "residual"

    def applies(self, settings: Settings) -> bool:
        """Where the next round's factors are the same, and noise of the client's own would not be part of the error."""
        return not settings.without_feedback and not settings.adds_share

    def before(self, job: TrainJob, kept: Kept) -> TrainJob:
        """Training knows nothing of it."""
        del kept
        return job

    def after(self, job: TrainJob, kept: Kept, outgoing: Outgoing) -> tuple[Outgoing, Kept]:
        """Pack the delta and the residual."""
        kept = _recent(kept, job)
        if job.grid is not None:
            return self._on_grid(job.grid, kept, outgoing)
        codec = job.settings.codec
        residual = Residual.of(kept, outgoing.delta.layout).plus(outgoing.delta)
        wanted = residual.to_encode(codec)
        # The residual of an untrained side waits for a round that trains it.
        for side in BOTH_SIDES - set(map(Side, job.settings.trained)):
            wanted = without(wanted, geometry_of(job.spec), side)
        encoded = encode_delta(wanted, codec)
        return replace(outgoing, encoded=encoded), residual.after_sending(encoded.delta).kept()

    @staticmethod
    def _on_grid(grid: Grid, kept: Kept, outgoing: Outgoing) -> tuple[Outgoing, Kept]:
        """Rounding to a grid at random is right on average, so it needs neither gain nor lead."""
        layout = outgoing.delta.layout
        residual = Residual(add(Residual.of(kept, layout).pending, outgoing.delta))
        numbers, arrived = grid.rounded(residual.pending)
        return replace(outgoing, numbers=numbers), residual.after_sending(arrived).kept()


def _recent(kept: Kept, job: TrainJob) -> Kept:
    """What a client of the previous round kept; nothing for one that was away, because the others have moved on."""
    return kept if kept.round + 1 >= job.settings.round else Kept()


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

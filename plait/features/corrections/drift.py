"""SCAFFOLD on adapters: each local step is corrected for the client's drift from the others.

Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", arXiv 1910.06378, option II, in
the space of updates. Let y_i - x = d_i be a client's change in a round of K steps, D_i its total correction, and g the
change of the global adapter in that round, known from the next broadcast. The correction becomes

    D_i+ = D_i + g - d_i,        D_i / K added to the adapter after every step.

For SGD of learning rate eta, with c_i+ = c_i - c - d_i / (K eta) and c+ = -g / (K eta), that is (c_i - c) of the
paper's eq. 3 and 4 times K eta; so nothing more has to be sent. In this form it also applies to AdamW, whose steps are
not gradients. g is the mean of all d_i if all clients take part and the server takes the plain mean; if a client missed
rounds, the mean over the rounds since.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from plait.adapters import AdapterState, Float32
from plait.rounds.client_state import Kept
from plait.rounds.hook import Outgoing
from plait.rounds.local_model import TrainJob
from plait.wire.settings import Settings


@dataclass(frozen=True, eq=False)
class Drift:
    """A client's value from its newest round.

    Attributes:
        received: (size,) the adapter that it started from.
        rest: (size,) D_i - d_i.
    """

    received: Float32
    rest: Float32

    def correction(self, now: AdapterState, *, rounds: int) -> Float32:
        """D_i for a round that starts from `now`, this many rounds later; (size,)."""
        went: Float32 = ((now.flat - self.received) / np.float32(max(1, rounds))).astype(np.float32, copy=False)
        return self.rest + went

    def kept(self) -> Kept:
        """The value as stored."""
        return Kept(arrays={"received": self.received, "rest": self.rest})

    @classmethod
    def of(cls, kept: Kept, size: int) -> Drift | None:
        """The inverse of `kept`; None if there is none for an adapter of this size."""
        received, rest = kept.vector("received", size), kept.vector("rest", size)
        return None if received is None or rest is None else cls(received, rest)


@dataclass(frozen=True)
class Scaffold:
    """The hook: every step of the round is corrected, and the correction is updated by the client's drift."""

    key = "drift"

    def applies(self, settings: Settings) -> bool:
        """Active if the run corrects drift."""
        return settings.scaffold

    def before(self, job: TrainJob, kept: Kept) -> TrainJob:
        """Add the correction to the job; training applies a part of it with every step."""
        correction = _correction(job, kept)
        step = None if correction is None else correction / np.float32(job.settings.steps_taken)
        return replace(job, carried=replace(job.carried, drift=step))

    def after(self, job: TrainJob, kept: Kept, outgoing: Outgoing) -> tuple[Outgoing, Kept]:
        """Keep the correction's remainder after the round."""
        correction = _correction(job, kept)
        rest = -outgoing.delta.flat if correction is None else correction - outgoing.delta.flat
        return outgoing, Drift(job.received.flat, rest).kept()


def _correction(job: TrainJob, kept: Kept) -> Float32 | None:
    drift = Drift.of(kept, job.received.layout.size)
    return drift and drift.correction(job.received, rounds=job.settings.round - kept.round)

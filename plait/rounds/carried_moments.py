"""Carry AdamW's moments from a client's round to its next (`--moments carry`).

Loshchilov and Hutter, "Decoupled Weight Decay Regularization", arXiv 1711.05101, as if the client's rounds were one
training: without it every round starts with steps that the bias correction of new moments makes large.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from plait.rounds.client_state import Kept
from plait.rounds.hook import Outgoing
from plait.rounds.local_model import TrainJob
from plait.rounds.moments import Moments
from plait.wire.settings import Settings


@dataclass(frozen=True)
class CarriedMoments:
    """The hook: training goes on with the moments that the client's round before left."""

    key = "moments"

    def applies(self, settings: Settings) -> bool:
        """Where the run carries moments."""
        return settings.carry_moments

    def before(self, job: TrainJob, kept: Kept) -> TrainJob:
        """Give them to the optimizer."""
        layout = job.received.layout
        moments = Moments.of(kept, layout.size, len(layout.slots))
        return replace(job, carried=replace(job.carried, moments=moments))

    def after(self, job: TrainJob, kept: Kept, outgoing: Outgoing) -> tuple[Outgoing, Kept | None]:
        """Keep what the optimizer left."""
        del job, kept
        moments = outgoing.trained.moments
        return outgoing, moments and moments.kept()

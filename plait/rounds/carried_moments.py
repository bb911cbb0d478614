"""Carry AdamW's moments from a client's round to its next.

Loshchilov and Hutter, "Decoupled Weight Decay Regularization", arXiv 1711.05101, as if the client's rounds were one
training run. Otherwise every round starts with large steps, due to the bias correction of new moments.
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
    """The hook: training continues with the moments of the client's previous round."""

    key = "moments"

    def applies(self, settings: Settings) -> bool:
        """Active if the run carries moments."""
        return settings.carry_moments

    def before(self, job: TrainJob, kept: Kept) -> TrainJob:
        """Pass them to the optimizer."""
        layout = job.received.layout
        moments = Moments.of(kept, layout.size, len(layout.slots))
        return replace(job, carried=replace(job.carried, moments=moments))

    def after(self, job: TrainJob, kept: Kept, outgoing: Outgoing) -> tuple[Outgoing, Kept | None]:
        """Keep the optimizer's moments."""
        del job, kept
        moments = outgoing.trained.moments
        return outgoing, moments and moments.kept()

"""Hooks that carry what training needs from a client's round to its next.

AdamW's moments (arXiv 1711.05101), as if the client's rounds were one training run: otherwise every round starts with
large steps, due to the bias correction of new moments. The learning rate that a client found in its first round. And
the adapter that it received in the round before, along whose movement it measures the slope of its loss: the gradient
of its first batch times the movement, negative where a longer step of the server would have lowered the loss further.
The server's part is `plait.aggregation.server_step`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from plait.rounds.hook import Outgoing
from plait.rounds.local_model import Moments, TrainJob
from plait.rounds.memory import Kept
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


class FoundRate:
    """The hook: training continues at the learning rate that was found."""

    key = "rate"

    def applies(self, settings: Settings) -> bool:
        """Active if the run gives no learning rate."""
        return not settings.learning_rate

    def before(self, job: TrainJob, kept: Kept) -> TrainJob:
        """Pass it to the trainer."""
        found = kept.tags.get("learning rate")
        return replace(job, carried=replace(job.carried, learning_rate=float(found) if found else None))

    def after(self, job: TrainJob, kept: Kept, outgoing: Outgoing) -> tuple[Outgoing, Kept]:
        """Keep it."""
        del job, kept
        found = outgoing.trained.learning_rate
        return outgoing, Kept(tags={"learning rate": repr(found)} if found else {})


@dataclass(frozen=True)
class Slope:
    """The hook: training is told the last movement, and measures the slope along it."""

    key = "slope"

    def applies(self, settings: Settings) -> bool:
        """Active if the server's step follows the slope."""
        return settings.measures_slope

    def before(self, job: TrainJob, kept: Kept) -> TrainJob:
        """Pass on the movement, except where training begins elsewhere or the client was away in the round before."""
        received = kept.vector("received", job.received.layout.size)
        if received is None or kept.round != job.settings.round - 1 or job.start is not job.received:
            return job
        movement = job.received.flat - received
        return replace(job, carried=replace(job.carried, movement=movement))

    def after(self, job: TrainJob, kept: Kept, outgoing: Outgoing) -> tuple[Outgoing, Kept]:
        """Keep the adapter that was received."""
        del kept
        return outgoing, Kept(arrays={"received": job.received.flat})

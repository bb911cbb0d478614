"""The learning rate that a client finds in its first round and continues with, where the run gives none.

Does not know how it is found, nor how it changes in a round (`plait.training.learner`).
"""

from __future__ import annotations

from dataclasses import replace

from plait.rounds.client_state import Kept
from plait.rounds.hook import Outgoing
from plait.rounds.local_model import TrainJob
from plait.wire.settings import Settings


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

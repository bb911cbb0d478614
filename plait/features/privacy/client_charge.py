"""What a run's noise hides of a whole client costs it: all its rounds, and updates that are given again."""

from __future__ import annotations

from dataclasses import dataclass

from plait.errors import PolicyError
from plait.features.privacy.mechanism import ClientPrivacy
from plait.features.privacy.purse import Purse
from plait.rounds.asked import Asked
from plait.rounds.client_state import Kept
from plait.rounds.client_way import Speaker
from plait.rounds.hook import Outgoing
from plait.rounds.local_model import TrainJob
from plait.wire.settings import Settings


@dataclass(frozen=True)
class ClientCharge:
    """The hook: a client pays before it trains.

    Attributes:
        privacy: what the run's noise promises of it.
    """

    speaker: Speaker
    privacy: ClientPrivacy
    key = ""

    def applies(self, settings: Settings) -> bool:
        """In every round."""
        del settings
        return True

    def before(self, job: TrainJob, kept: Kept) -> TrainJob:
        """Pay; training knows nothing of it.

        Raises:
            PolicyError: a share of noise is asked for without masks, or all runs together would have spent too much.
        """
        del kept
        if job.settings.adds_share and not job.settings.under_masks:
            raise PolicyError("an update with a share of the noise is asked for without masks, expected a masked sum")
        self.pay()
        return job

    def after(self, job: TrainJob, kept: Kept, outgoing: Outgoing) -> tuple[Outgoing, None]:
        """Nothing."""
        del job, kept
        return outgoing, None

    def pay(self) -> None:
        """Pay for the whole run.

        Raises:
            PolicyError: all runs together would have spent too much.
        """
        if self.speaker.terms:
            rounds = self.speaker.terms.tasks.plan.rounds + Asked.recall(self.speaker.memory).repeats
            Purse(self.speaker).pay(self.privacy.epsilon_after(rounds), self.privacy.delta)

"""The hook by which a client's records pay for its steps before any is taken, and its update says no more than that.

The account is `plait.rounds.record_accountant`'s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from plait.privacy.record import RecordPrivacy
from plait.rounds.client_state import Kept
from plait.rounds.client_way import Speaker
from plait.rounds.hook import Outgoing
from plait.rounds.local_model import DataSize, TrainJob
from plait.rounds.purse import Purse
from plait.rounds.record_accountant import charge, made_of, privacy_of
from plait.wire.envelope import EPSILON
from plait.wire.settings import Settings


@dataclass(frozen=True)
class RecordCharge:
    """The hook of one client; the last before training, so that it sees all that the gradients are made of."""

    speaker: Speaker
    key = ""

    def applies(self, settings: Settings) -> bool:
        """Where records are private."""
        return settings.records_are_private

    def agree(self, size: DataSize, settings: Settings) -> None:
        """Refuse what the policy does not allow, before a step is paid for.

        Raises:
            ConfigError: delta or epsilon do not fit so many records.
            PolicyError: the whole run would take more than this client allows.
        """
        self._privacy(size, settings)

    def before(self, job: TrainJob, kept: Kept) -> TrainJob:
        """Pay for the steps; how many examples there are stays here."""
        del kept
        size = job.model.data_size(job.spec, job.settings)
        paid = charge(
            self.speaker.memory,
            self._privacy(size, job.settings),
            run_id=job.run_id,
            inputs=made_of(job, size.identity),
            steps=job.settings.steps_taken,
            pay=Purse(self.speaker).pay,
        )
        return replace(job, charge=paid, examples=0)

    def after(self, job: TrainJob, kept: Kept, outgoing: Outgoing) -> tuple[Outgoing, None]:
        """The update says what it has cost so far, and nothing that has no noise."""
        del kept
        return replace(outgoing, said={EPSILON: job.charge.epsilon if job.charge else 0.0}), None

    def _privacy(self, size: DataSize, settings: Settings) -> RecordPrivacy:
        purse = Purse(self.speaker)
        privacy = privacy_of(settings, records=size.train_examples, most=purse.most_of_run)
        purse.check(lambda: privacy.epsilon_after(max(1, settings.total_steps)))
        return privacy

"""The hook by which a client's records pay for its steps before any is taken, and its update says no more than that.

The account is `plait.features.privacy.record_accountant`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from plait.features.privacy.purse import Purse
from plait.features.privacy.record import Charge, RecordPrivacy
from plait.features.privacy.record_accountant import charge, made_of, privacy_of
from plait.rounds.client_state import Kept
from plait.rounds.client_way import Speaker
from plait.rounds.hook import Outgoing
from plait.rounds.local_model import DataSize, TrainJob
from plait.wire.envelope import EPSILON
from plait.wire.settings import Settings

if TYPE_CHECKING:
    from torch import nn

    from plait.adapters import Task
    from plait.training.learner import LocalTraining, TrainingInputs
    from plait.training.replicas import Replica
    from plait.training.step_memory import StepMemory


@dataclass(frozen=True)
class PaidSteps:
    """The steps that a client has paid for (`plait.rounds.local_model.OwnSteps`)."""

    charge: Charge

    def take(
        self,
        model: nn.Module,
        parameters: Sequence[nn.Parameter],
        inputs: TrainingInputs,
        *,
        task: Task,
        pad_token: int,
        memory: StepMemory | None = None,
        others: Sequence[Replica] = (),
    ) -> LocalTraining:
        """See `plait.features.privacy.training.private_steps.train_privately`."""
        from plait.features.privacy.training.private_steps import train_privately

        return train_privately(
            model, parameters, inputs, self.charge, task=task, pad_token=pad_token, memory=memory, others=others
        )


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
        return replace(job, steps=PaidSteps(paid), examples=0)

    def after(self, job: TrainJob, kept: Kept, outgoing: Outgoing) -> tuple[Outgoing, None]:
        """The update says what it has cost so far, and nothing that has no noise."""
        del kept
        epsilon = job.steps.charge.epsilon if isinstance(job.steps, PaidSteps) else 0.0
        return replace(outgoing, said={EPSILON: epsilon}), None

    def _privacy(self, size: DataSize, settings: Settings) -> RecordPrivacy:
        purse = Purse(self.speaker)
        privacy = privacy_of(settings, records=size.train_examples, most=purse.most_of_run)
        purse.check(lambda: privacy.epsilon_after(max(1, settings.total_steps)))
        return privacy

"""The tasks of a run: what a coordinator asks its clients for, and how long it waits for answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from plait.rounds.broadcasts import Broadcasts
from plait.rounds.channel import Channel, Purpose
from plait.rounds.dispatch import Aim, Dispatch
from plait.rounds.ledger import Ledger
from plait.rounds.patience import Patience
from plait.rounds.roster import Roster
from plait.rounds.run_state import RunState
from plait.rounds.task_settings import TaskSettings
from plait.rounds.tracks import Ranks
from plait.wire.messages import EvaluateTask, Task, TrainTask


@dataclass(eq=False, kw_only=True)
class Tasks:
    """The tasks of one run.

    Attributes:
        patience: how long to wait for clients that come and go.
        deadline_s: seconds that answers are waited for; None for no limit.
        steps: that clients are asked for, by round and client, where each has its own number.
    """

    channel: Channel
    ledger: Ledger
    ranks: Ranks
    base_fingerprint: bytes
    settings: TaskSettings
    patience: Patience
    deadline_s: float | None = None
    steps: Mapping[tuple[int, str], int] = field(default_factory=dict[tuple[int, str], int])

    def dispatch(
        self,
        state: RunState,
        roster: Roster,
        purpose: Purpose,
        number: int,
        *,
        attempt: bytes = b"",
        patience: Patience | None = None,
    ) -> Dispatch:
        """Tasks of one purpose, for clients that are brought to the adapter of `state`.

        Args:
            attempt: of the masked sum that they belong to; empty for none.
            patience: with these tasks, if it is another than with all.
        """
        return Dispatch(
            channel=self.channel,
            roster=roster,
            aim=Aim(number, Broadcasts(state, self.ranks, self.base_fingerprint)),
            held=state.held,
            ledger=self.ledger,
            purpose=purpose,
            task=partial(self._task, purpose),
            patience=patience or self.patience,
            attempt=attempt,
        )

    def deadline(self) -> float | None:
        """When to stop waiting for answers to tasks that are sent now, on the channel's clock."""
        return None if self.deadline_s is None else self.channel.clock.now() + self.deadline_s

    def _task(self, purpose: Purpose, client: str, number: int, broadcast: bytes) -> Task:
        if purpose is Purpose.EVALUATE:
            return EvaluateTask(self.settings.to_evaluate(number), broadcast)
        steps = self.steps.get((number, client), 0)
        return TrainTask(self.settings.to_train(number, client, steps=steps), broadcast)

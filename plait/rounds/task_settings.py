"""The settings for training and evaluation in every task of a run, by round and client.

The server writes its tasks from it. A client derives the same from the run configuration in its welcome and refuses a
task that differs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from plait.aggregation import Rule
from plait.rounds.run_plan import RunPlan
from plait.rounds.run_state import client_seed
from plait.wire.settings import Settings


@dataclass(frozen=True)
class TaskSettings:
    """The settings of a run's tasks.

    Attributes:
        plan: has those that are the same in all of them.
        new_factors: whether the factors change in every round (see `Rule.new_factors`).
    """

    plan: RunPlan
    rule: Rule
    new_factors: bool

    def to_describe(self) -> Settings:
        """The settings under which a client counts its data."""
        return self._of_run

    @cached_property
    def _of_run(self) -> Settings:
        return replace(self.plan.settings, personal=self.rule.personal or "", without_feedback=self.new_factors)

    def to_train(self, number: int, client: str, *, steps: int = 0) -> Settings:
        """How a client trains in round `number`, for this many steps; 0 for as many as all."""
        return self._of_run.for_task(
            round=number,
            seed=client_seed(self.plan.seed, number, client),
            done_steps=(number - 1) * self.plan.settings.local_steps,
            trained="".join(sorted(self.rule.trained(number))),
            steps=steps,
        )

    def to_evaluate(self, number: int) -> Settings:
        """How a client evaluates the adapter after round `number`."""
        return self._of_run.for_task(round=number, done_steps=number * self.plan.settings.local_steps)

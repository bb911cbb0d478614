"""The settings for training and evaluation in every task of a run, by round and client.

The server writes its tasks from it. A client derives the same from the run configuration in its welcome and refuses a
task that differs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from plait.aggregation import Rule
from plait.rounds.run_state import client_seed
from plait.wire.settings import Settings


@dataclass(frozen=True)
class TaskSettings:
    """The settings of a run's tasks.

    Attributes:
        settings: those of the run; the ones that change from task to task are filled in.
        new_factors: whether the factors change in every round (see `Rule.new_factors`).
        most_steps: of a client in a round, where each has its own number (see `step_budget`); 0 if all take as many.
    """

    settings: Settings
    rounds: int
    seed: int
    rule: Rule
    new_factors: bool
    most_steps: int = 0

    def to_describe(self) -> Settings:
        """The settings under which a client counts its data."""
        return replace(self.settings, personal=self.rule.personal or "", without_feedback=self.new_factors)

    def to_train(self, number: int, client: str, *, steps: int = 0) -> Settings:
        """How a client trains in round `number`, for so many steps; 0 for as many as all."""
        return replace(
            self.to_describe(),
            round=number,
            seed=client_seed(self.seed, number, client),
            done_steps=(number - 1) * self.settings.local_steps,
            trained="".join(sorted(self.rule.trained(number))),
            steps=steps,
        )

    def to_evaluate(self, number: int) -> Settings:
        """How a client evaluates the adapter after round `number`."""
        return replace(self.to_describe(), round=number, done_steps=number * self.settings.local_steps)

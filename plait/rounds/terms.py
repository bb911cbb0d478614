"""A client's agreement: the run in its welcome, its operator's policy.

A server that asks for anything else is refused before a task's broadcast is decoded or anything is trained. Knows no
model: the caller derives the adapters from the run configuration.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from plait.adapters import AdapterSpec
from plait.errors import PolicyError
from plait.rounds.task_settings import TaskSettings
from plait.wire.envelope import Header
from plait.wire.messages import CoreTask, DescribeTask, EvaluateTask, TrainTask
from plait.wire.settings import Settings

if TYPE_CHECKING:
    from plait.policy import Policy


@dataclass(frozen=True)
class Terms:
    """One client's agreement to one run.

    Attributes:
        tasks: the settings of all tasks.
        specs: the adapters of the run, one for each rank of its clients. A client is first asked about the largest.
        own: the one that this client has.
        policy: its operator's; None in a simulation, which has a single operator.
    """

    client: str
    tasks: TaskSettings
    specs: tuple[AdapterSpec, ...]
    own: AdapterSpec
    policy: Policy | None = None

    def check_task(self, task: CoreTask) -> None:
        """Refuse a task whose settings or adapter differ from the run configuration.

        Raises:
            PolicyError: with the value, what it is and what was expected.
        """
        match task:
            case DescribeTask():
                self._check_settings(task.settings, self.tasks.to_describe())
                # As text, before anything in it is parsed.
                if task.spec_json not in {spec.text for spec in self.specs}:
                    raise PolicyError("adapter spec of the task is not one that the run configuration makes")
            case TrainTask():
                self.check_round(task.settings.round, least=1)
                number, steps = task.settings.round, self._steps(task.settings.steps)
                self._check_settings(task.settings, self.tasks.to_train(number, self.client, steps=steps))
            case EvaluateTask():
                self.check_round(task.settings.round, least=0)
                self._check_settings(task.settings, self.tasks.to_evaluate(task.settings.round))

    def check_header(self, header: Header, task: TrainTask | EvaluateTask) -> None:
        """Refuse a broadcast for another adapter or round than the task's, or for another client.

        Raises:
            PolicyError: it is for another.
        """
        if header.spec_digest != self.own.digest or header.spec_json not in ("", self.own.text):
            raise PolicyError(
                f"adapter spec of the broadcast is {header.spec_digest.hex()[:16]}, expected "
                f"{self.own.digest.hex()[:16]} as the run configuration makes it"
            )
        if header.client not in ("", self.client):
            raise PolicyError(f"broadcast is for client {header.client!a}, expected one for '{self.client}'")
        after = task.settings.round - (1 if isinstance(task, TrainTask) else 0)
        if header.round != after:
            raise PolicyError(f"broadcast is of round {header.round}, expected {after} of this task")

    def check_round(self, number: int, *, least: int) -> None:
        """Refuse a round that the run does not have.

        Raises:
            PolicyError: it is not one of the run.
        """
        most = self.tasks.plan.rounds
        if not least <= number <= most:
            raise PolicyError(f"round of the task is {number}, expected {least} to {most}")

    def _steps(self, asked: int) -> int:
        """The steps that a task may ask for; 0 if all clients take as many."""
        most = self.tasks.plan.most_steps
        if most and not 1 <= asked <= most:
            raise PolicyError(f"steps of the task are {asked}, expected 1 to {most} as the run configuration says")
        return asked if most else 0

    @staticmethod
    def _check_settings(got: Settings, expected: Settings) -> None:
        for each in fields(Settings):
            said, agreed = getattr(got, each.name), getattr(expected, each.name)
            if said != agreed:
                name = each.name.replace("_", "-")
                raise PolicyError(f"{name} of the task is {said}, expected {agreed} as the run configuration says")

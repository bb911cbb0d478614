"""A client's agreement: the run in its welcome, its operator's policy, and a record of the run's tasks.

A server that asks for anything else, or for a round too often, is refused before a task's broadcast is decoded.
"""

import json
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, cast

from plait.adapters import AdapterSpec
from plait.errors import PolicyError
from plait.rounds.memory import ClientStore
from plait.rounds.run_plan import TaskSettings
from plait.system.text import read_json
from plait.wire.envelope import Header
from plait.wire.messages import CoreTask, DescribeTask, EvaluateTask, TrainTask
from plait.wire.settings import Settings

if TYPE_CHECKING:
    from plait.policy import Policy


_ASKED = "asked"
# Rounds whose broadcasts are remembered: a server goes back by one at most.
_REMEMBERED = 4

JUDGE_TASK = "JudgeTask"
"""What a client's record calls an evaluation on the judge part."""


@dataclass
class TaskHistory:
    """A client's record of the tasks of a run: which rounds, and from which adapters.

    A restarted server asks for a round again from the same adapter, and gets the same answer. Other adapters would get
    other answers, and many of them together reveal more than one.

    Attributes:
        repeats: number of rounds requested from another adapter, or given with other noise.
        given: the latest round whose update left with noise of its own, and the attempt that it left for.
    """

    run_id: str = ""
    newest: dict[str, int] = field(default_factory=dict[str, int])
    seen: dict[str, dict[str, list[str]]] = field(default_factory=dict[str, dict[str, list[str]]])  # by purpose, round
    repeats: int = 0
    given: tuple[int, str] = (0, "")

    @classmethod
    def recall(cls, memory: ClientStore) -> "TaskHistory":
        """The stored record; empty if nothing was asked yet."""
        data = memory.load(_ASKED)
        if data is None:
            return cls()
        try:
            kept = cast("dict[str, Any]", read_json(data))
            number, attempt = kept["given"]
            kept["given"] = number, attempt
            return cls(**{each.name: kept[each.name] for each in fields(cls)})
        except (ValueError, KeyError, TypeError) as error:
            raise PolicyError(
                "this client's record of a run's tasks is damaged; restore the file to take further part in the run"
            ) from error

    def note(self, memory: ClientStore, header: Header, task: TrainTask | EvaluateTask, most: int) -> None:
        """Record a task before it is done; `PolicyError` if it is of another run, or requested once too often."""
        run_id = header.run_id.hex()
        if self.run_id not in ("", run_id):
            raise PolicyError(f"run of the broadcast is {run_id[:16]}, this client's is {self.run_id[:16]}")
        purpose, number = JUDGE_TASK if task.settings.judging else type(task).__name__, task.settings.round
        state = header.result_digest.hex()
        rounds = self.seen.setdefault(purpose, {})
        states = rounds.setdefault(str(number), [])
        if state in states:
            return
        if number <= self.newest.get(purpose, -1) or (purpose == JUDGE_TASK and any(rounds.values())):
            # What judges once and for all is no help to decide among several.
            self._count_repeat(f"round {number} is asked for again from another adapter", most)
        states.append(state)
        self.run_id = run_id
        self.newest[purpose] = max(number, self.newest.get(purpose, -1))
        for old in sorted(rounds, key=int)[:-_REMEMBERED]:
            del rounds[old]
        self._save(memory)

    def note_given(self, memory: ClientStore, number: int, attempt: bytes, most: int) -> None:
        """Record an update before it leaves with noise of its own.

        An attempt at a round may continue without this client while it answers the next one. Both have its update then,
        under independent noise, and cost twice.
        """
        digest = attempt.hex()
        if self.given == (number, digest):
            # It was killed before it left.
            return
        if number <= self.given[0]:
            self._count_repeat(f"update of round {number} is asked for again with other noise", most)
        self.given = max(self.given[0], number), digest
        self._save(memory)

    def _count_repeat(self, what: str, most: int) -> None:
        self.repeats += 1
        if self.repeats > most:
            raise PolicyError(
                f"{what}, but max-repeats of this client's policy allows {most} such repeats; to take part, raise it "
                "in the file given with --policy"
            )

    def _save(self, memory: ClientStore) -> None:
        memory.save(_ASKED, json.dumps(vars(self), sort_keys=True).encode())


@dataclass(frozen=True)
class AgreedTerms:
    """One client's agreement to one run.

    Attributes:
        specs: the adapters of the run, one for each rank of its clients. A client is first asked about the largest.
        policy: its operator's; None in a simulation, which has a single operator.
    """

    client: str
    tasks: TaskSettings
    specs: tuple[AdapterSpec, ...]
    own: AdapterSpec
    policy: "Policy | None" = None

    def check_task(self, task: CoreTask) -> None:
        """Refuse a task whose settings or adapter differ from the run configuration."""
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
                judging = task.settings.judging and self.tasks.plan.settings.judge_part > 0
                self._check_settings(task.settings, self.tasks.to_evaluate(task.settings.round, judging=judging))

    def check_header(self, header: Header, task: TrainTask | EvaluateTask) -> None:
        """Refuse a broadcast for another adapter or round than the task's, or for another client."""
        if header.spec_digest != self.own.digest or header.spec_json not in ("", self.own.text):
            raise PolicyError(
                f"adapter spec of the broadcast is {header.spec_digest.hex()[:16]}, but the run configuration makes "
                f"{self.own.digest.hex()[:16]}"
            )
        if header.client not in ("", self.client):
            raise PolicyError(f"broadcast is for client {header.client!a}, this client is '{self.client}'")
        after = task.settings.round - (1 if isinstance(task, TrainTask) else 0)
        if header.round != after:
            raise PolicyError(f"broadcast is of round {header.round}, expected {after} of this task")

    def check_round(self, number: int, *, least: int) -> None:
        """Refuse a round that the run does not have."""
        most = self.tasks.plan.rounds
        if not least <= number <= most:
            raise PolicyError(f"round of the task is {number}, expected {least} to {most}")

    def _steps(self, asked: int) -> int:
        """The steps that a task may ask for; 0 if all clients take as many."""
        most = self.tasks.plan.most_steps
        if most and not 1 <= asked <= most:
            raise PolicyError(f"steps of the task are {asked}, but the run configuration allows 1 to {most}")
        return asked if most else 0

    @staticmethod
    def _check_settings(got: Settings, expected: Settings) -> None:
        for each in fields(Settings):
            value, agreed = getattr(got, each.name), getattr(expected, each.name)
            if value != agreed:
                name = each.name.replace("_", "-")
                raise PolicyError(f"{name} of the task is {value}, but {agreed} in the run configuration")

"""What a client agreed to: the run as it was welcomed to it, its operator's policy, and what it was asked so far.

A server that asks for anything else is refused before a task's broadcast is decoded or anything is trained. Knows no
model: whoever makes the terms derives the adapters that the run configuration describes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import cast

from plait.adapters import AdapterSpec
from plait.errors import PolicyError
from plait.policy import Policy
from plait.rounds.memory import Memory
from plait.rounds.task_settings import TaskSettings
from plait.wire.envelope import Header
from plait.wire.messages import DescribeTask, EvaluateTask, Task, TrainTask
from plait.wire.settings import Settings

_ASKED = "asked"
# Rounds whose broadcasts are remembered: a server falls back by one at most.
_REMEMBERED = 4


@dataclass(frozen=True)
class Terms:
    """What one client of one run agreed to.

    Attributes:
        client: its name.
        tasks: the settings of all tasks.
        specs: the adapters of the run, one for each rank that clients have. A client is first asked about the largest.
        own: the one that this client has.
        policy: its operator's; None in a simulation, where all is one operator's.
    """

    client: str
    tasks: TaskSettings
    specs: tuple[AdapterSpec, ...]
    own: AdapterSpec
    policy: Policy | None = None

    def check_task(self, task: Task) -> None:
        """Refuse a task whose settings, or whose adapter, are other than the run configuration says.

        Raises:
            PolicyError: which value, what it is and what was expected.
        """
        match task:
            case DescribeTask():
                self._check_settings(task.settings, self.tasks.to_describe())
                # As text, before anything of it is understood.
                if task.spec_json not in {spec.text for spec in self.specs}:
                    raise PolicyError("adapter spec of the task is none that the run configuration makes")
            case TrainTask():
                self._check_round(task.settings.round, least=1)
                self._check_settings(task.settings, self.tasks.to_train(task.settings.round, self.client))
            case EvaluateTask():
                self._check_round(task.settings.round, least=0)
                self._check_settings(task.settings, self.tasks.to_evaluate(task.settings.round))

    def check_header(self, header: Header, task: TrainTask | EvaluateTask) -> None:
        """Refuse a broadcast of another adapter or round than the task's, or for another client.

        Raises:
            PolicyError: it is of another.
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

    def _check_round(self, number: int, *, least: int) -> None:
        if not least <= number <= self.tasks.rounds:
            raise PolicyError(f"round of the task is {number}, expected {least} to {self.tasks.rounds}")

    @staticmethod
    def _check_settings(got: Settings, expected: Settings) -> None:
        for each in fields(Settings):
            said, agreed = getattr(got, each.name), getattr(expected, each.name)
            if said != agreed:
                name = each.name.replace("_", "-")
                raise PolicyError(f"{name} of the task is {said}, expected {agreed} as the run configuration says")


@dataclass
class Asked:
    """What a client was asked in a run: which rounds, and from which adapters.

    A round is asked for again by a server that was restarted, from the same adapter, and gets the same answer. Other
    adapters would get other answers, and many of them together tell what one does not.

    Attributes:
        run_id: the run's, 16 bytes in hexadecimal; empty before the first task.
        newest: the latest round that was asked for, by purpose.
        seen: the adapters that the last rounds were asked for from, by purpose and round.
        repeats: how often a round was asked for from another adapter.
    """

    run_id: str = ""
    newest: dict[str, int] = field(default_factory=dict[str, int])
    seen: dict[str, dict[str, list[str]]] = field(default_factory=dict[str, dict[str, list[str]]])
    repeats: int = 0

    @classmethod
    def recall(cls, memory: Memory) -> Asked:
        """What is remembered; nothing where nothing was asked yet."""
        data = memory.load(_ASKED)
        if data is None:
            return cls()
        kept = cast("Mapping[str, object]", json.loads(data))
        return cls(
            cast("str", kept["run_id"]),
            cast("dict[str, int]", kept["newest"]),
            cast("dict[str, dict[str, list[str]]]", kept["seen"]),
            cast("int", kept["repeats"]),
        )

    def note(
        self, memory: Memory, header: Header, base_digest: bytes, task: TrainTask | EvaluateTask, most: int
    ) -> None:
        """Remember a task that is about to be done.

        Args:
            memory: where to.
            header: of its broadcast.
            base_digest: of the moved base.
            task: the task.
            most: times that a round may be asked for from another adapter, in the whole run.

        Raises:
            PolicyError: it is of another run, or asked for once too often.
        """
        run_id = header.run_id.hex()
        if self.run_id not in ("", run_id):
            raise PolicyError(f"run of the broadcast is {run_id[:16]}, expected {self.run_id[:16]} as before")
        purpose, number = type(task).__name__, task.settings.round
        state = (header.result_digest + base_digest).hex()
        rounds = self.seen.setdefault(purpose, {})
        states = rounds.setdefault(str(number), [])
        if state in states:
            return
        if number <= self.newest.get(purpose, -1):
            self.repeats += 1
            if self.repeats > most:
                raise PolicyError(
                    f"round {number} is asked for again from another adapter, and {most} such repeats are what "
                    "max-repeats of this client's policy allows; to take part, raise it in the file given with --policy"
                )
        states.append(state)
        self.run_id = run_id
        self.newest[purpose] = max(number, self.newest.get(purpose, -1))
        for old in sorted(rounds, key=int)[:-_REMEMBERED]:
            del rounds[old]
        kept = {"run_id": self.run_id, "newest": self.newest, "seen": self.seen, "repeats": self.repeats}
        memory.save(_ASKED, json.dumps(kept, sort_keys=True).encode())

"""A client's record of the tasks that it was given, so that its policy limits how often a round is asked for again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from plait.errors import PolicyError
from plait.rounds.memory import Memory
from plait.wire.envelope import Header
from plait.wire.messages import EvaluateTask, TrainTask

_ASKED = "asked"
# Rounds whose broadcasts are remembered: a server goes back by one at most.
_REMEMBERED = 4


@dataclass
class Asked:
    """A client's record of the tasks of a run: which rounds, and from which adapters.

    A restarted server asks for a round again from the same adapter, and gets the same answer. Other adapters would get
    other answers, and many of them together reveal more than one.

    Attributes:
        run_id: the run's, 16 bytes in hexadecimal; empty before the first task.
        newest: the latest round requested, by purpose.
        seen: the adapters from which recent rounds were requested, by purpose and round.
        repeats: number of rounds requested from another adapter, or given with other noise.
        given: the latest round whose update left with noise of its own, and the attempt that it left for.
    """

    run_id: str = ""
    newest: dict[str, int] = field(default_factory=dict[str, int])
    seen: dict[str, dict[str, list[str]]] = field(default_factory=dict[str, dict[str, list[str]]])
    repeats: int = 0
    given: tuple[int, str] = (0, "")

    @classmethod
    def recall(cls, memory: Memory) -> Asked:
        """The stored record; empty if nothing was asked yet."""
        data = memory.load(_ASKED)
        if data is None:
            return cls()
        kept = cast("Mapping[str, object]", json.loads(data))
        number, attempt = cast("tuple[int, str]", kept["given"])
        return cls(
            cast("str", kept["run_id"]),
            cast("dict[str, int]", kept["newest"]),
            cast("dict[str, dict[str, list[str]]]", kept["seen"]),
            cast("int", kept["repeats"]),
            (number, attempt),
        )

    def note(self, memory: Memory, header: Header, task: TrainTask | EvaluateTask, most: int) -> None:
        """Record a task before it is done.

        Args:
            most: times that a round may be requested from another adapter, in the whole run.

        Raises:
            PolicyError: it is of another run, or requested once too often.
        """
        run_id = header.run_id.hex()
        if self.run_id not in ("", run_id):
            raise PolicyError(f"run of the broadcast is {run_id[:16]}, expected {self.run_id[:16]} as before")
        purpose, number = type(task).__name__, task.settings.round
        state = header.result_digest.hex()
        rounds = self.seen.setdefault(purpose, {})
        states = rounds.setdefault(str(number), [])
        if state in states:
            return
        if number <= self.newest.get(purpose, -1):
            self.repeats += 1
            if self.repeats > most:
                raise PolicyError(
                    f"round {number} is asked for again from another adapter, but max-repeats of this client's policy "
                    f"allows {most} such repeats; to take part, raise it in the file given with --policy"
                )
        states.append(state)
        self.run_id = run_id
        self.newest[purpose] = max(number, self.newest.get(purpose, -1))
        for old in sorted(rounds, key=int)[:-_REMEMBERED]:
            del rounds[old]
        self._save(memory)

    def note_given(self, memory: Memory, number: int, attempt: bytes, most: int) -> None:
        """Record an update before it leaves with noise of its own.

        An attempt at a round may continue without this client while it answers the next one. Both have its update then,
        under independent noise, and cost twice.

        Args:
            attempt: digest of what the update is given to.
            most: times that a round's update may be given with other noise, in the whole run.

        Raises:
            PolicyError: it was given once too often.
        """
        digest = attempt.hex()
        if self.given == (number, digest):
            # It was killed before it left.
            return
        if number <= self.given[0]:
            self.repeats += 1
            if self.repeats > most:
                raise PolicyError(
                    f"update of round {number} is asked for again with other noise, but max-repeats of this client's "
                    f"policy allows {most} such repeats; to take part, raise it in the file given with --policy"
                )
        self.given = max(self.given[0], number), digest
        self._save(memory)

    def _save(self, memory: Memory) -> None:
        memory.save(_ASKED, json.dumps(vars(self), sort_keys=True).encode())

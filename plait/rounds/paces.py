"""How fast clients are, as the rounds before have measured it.

A client's pace is the steps per second of its training, and the seconds of everything else between task and answer. It
follows from the ledger alone, of finished rounds only, so that a resumed run knows the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

from plait.rounds import events


@dataclass(frozen=True)
class Pace:
    """How fast a client is.

    Attributes:
        rest_s: the time from task to answer, less training.
    """

    steps_per_s: float
    rest_s: float

    def steps_in(self, round_s: float) -> float:
        """Steps that it takes in a round of this many seconds."""
        return self.steps_per_s * max(0.0, round_s - self.rest_s)

    def task_s(self, steps: int) -> float:
        """Seconds from a task of this many steps to its answer."""
        return self.rest_s + steps / self.steps_per_s


@dataclass
class Paces:
    """The clients' paces, from the events of a run.

    Attributes:
        local_steps: of a client that was not given a number of its own; 0 where its pace is of no use.
        known: of finished rounds, by client.
    """

    local_steps: int = 0
    known: dict[str, Pace] = field(default_factory=dict[str, Pace])
    _steps: dict[str, int] = field(default_factory=dict[str, int])
    _new: dict[str, Pace] = field(default_factory=dict[str, Pace])

    @classmethod
    def of(cls, recorded: Iterable[events.Event], *, local_steps: int = 0) -> Self:
        """Those that a ledger tells."""
        paces = cls(local_steps)
        for event in recorded:
            paces.take(event)
        return paces

    def take(self, event: events.Event) -> None:
        """Process the next event."""
        match event:
            case events.Resumed():
                self._new = {}
            case events.RoundStarted() | events.ClientReplaced():
                self._steps |= {client: number for (_, client), number in event.asked.items()}
            case events.RoundFinished():
                self.known |= self._new
                self._new, self._steps = {}, {}
            case _:
                if event.pace:
                    self._note(*event.pace)

    def expected_s(self, client: str, steps: int = 0) -> float | None:
        """How long a task of this many steps should take, 0 for `local_steps`; None if unknown."""
        pace = self.known.get(client)
        return pace and pace.task_s(steps or self.local_steps)

    def _note(self, client: str, train_s: float, took_s: float) -> None:
        steps = self._steps.get(client, self.local_steps)
        if steps and train_s > 0:
            self._new[client] = Pace(steps / train_s, max(0.0, took_s - train_s))


class Stepping(Protocol):
    """Gives each client a number of steps of its own; what `RunPlan.stepping` is."""

    def most(self, local_steps: int) -> int:
        """Steps of a client in a round at most, where all would take `local_steps`."""
        ...

    def steps(self, local_steps: int, cohort: Sequence[str], paces: Mapping[str, Pace]) -> Callable[[str], int]:
        """The steps of a client in a round, one that replaces another of the cohort included."""
        ...

    def factors(self, steps: Mapping[str, int], weights: Mapping[str, float]) -> Mapping[str, float]:
        """What each client's delta is multiplied by, so that all pull equally hard.

        Args:
            weights: of the clients, of any sum; 1 where not given.
        """
        ...

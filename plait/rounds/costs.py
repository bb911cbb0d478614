"""What features tell of a run: what its rounds cost its clients' privacy, its bits on links, how it opens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from plait.errors import PeerError
from plait.rounds.events import Event
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_state import RunState
from plait.wire.settings import Settings


class CannotPayError(PeerError):
    """A round would cost more than is left; the run ends with the adapter that it has."""


class Costs(Protocol):
    """What rounds cost, and what that asks of the run."""

    @property
    def withholds(self) -> bool:
        """Whether clients keep their losses to themselves, so that nothing is evaluated."""
        ...

    @property
    def keeps_cohort(self) -> bool:
        """Whether no client's update may decide whether another's counts, so that none is replaced."""
        ...

    def ending(self, number: int) -> str:
        """Why round `number` may not begin; empty if it may."""
        ...

    def spent(self, state: RunState, epsilons: Mapping[str, float]) -> Event | None:
        """What the ledger says of the costs once a round is over; None for nothing.

        Args:
            epsilons: what clients have said of their own costs, by name.
        """
        ...


class Free:
    """Rounds cost nothing."""

    withholds = keeps_cohort = False

    def ending(self, number: int) -> str:
        """Every round may begin."""
        del number
        return ""

    def spent(self, state: RunState, epsilons: Mapping[str, float]) -> Event | None:
        """Nothing."""
        del state, epsilons
        return None


@dataclass(frozen=True)
class Links:
    """Bits for each parameter of an adapter.

    Attributes:
        up: of an update.
        more_down: of what a client is sent beside a broadcast.
    """

    up: float
    more_down: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Opening:
    """A run that begins, or goes on.

    Attributes:
        events: of its ledger; empty for a new run, whose ledger does not exist yet.
        size: numbers in the largest update.
        continues: whether it starts from other runs' adapters.
    """

    directory: RunDirectory
    events: Sequence[Event] = ()
    settings: Settings
    size: int
    base_parameters: int = 0
    continues: bool = False

"""What the rounds of a run cost its clients' privacy: nothing, unless a feature says otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from plait.errors import PeerError
from plait.rounds.events import Event
from plait.rounds.run_state import RunState


class CannotPayError(PeerError):
    """A round would cost more than is left; the run ends with the adapter that it has."""


class Costs(Protocol):
    """What rounds cost, and what that asks of the run."""

    @property
    def withholds(self) -> bool:
        """Whether clients keep their losses to themselves, so that nothing is evaluated."""
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

    withholds = False

    def ending(self, number: int) -> str:
        """Every round may begin."""
        del number
        return ""

    def spent(self, state: RunState, epsilons: Mapping[str, float]) -> Event | None:
        """Nothing."""
        del state, epsilons
        return None

"""What the rounds of a run with differential privacy of records cost: clients keep their own accounts, and say them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from plait.features.privacy import record_accountant
from plait.rounds.events import Event
from plait.rounds.run_state import RunState
from plait.wire.settings import Settings


@dataclass(frozen=True)
class RecordCosts:
    """The costs of one run's records.

    Attributes:
        told: rounds of which the ledger says what they have cost.
        masked: whether clients say nothing of what they have spent: at most the run's epsilon.
    """

    settings: Settings
    told: Collection[int] = ()
    masked: bool = False
    withholds: bool = True

    def ending(self, number: int) -> str:
        """Clients refuse what they cannot pay."""
        del number
        return ""

    def spent(self, state: RunState, epsilons: Mapping[str, float]) -> Event | None:
        """The largest epsilon, and each client's."""
        if state.finished is None or state.round in self.told or not (epsilons or self.masked):
            return None
        return record_accountant.spent(state.round, self.settings, epsilons)

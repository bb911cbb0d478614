"""Settings of who takes part in a round, and how long it waits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import Field

from plait.settings.table import Table
from plait.traits import Stated, Trait


class Cohort(Table):
    """Who takes part in a round, and how long it waits."""

    table: ClassVar[str] = "cohort"
    heading: ClassVar[str] = "Who takes part in a round"

    clients_per_round: Annotated[int, Field(ge=0)] = 0
    """clients sampled per round; 0 means all"""
    over_selection: Annotated[float, Field(ge=0, le=10)] = 0.0
    """extra clients to ask per round, as a fraction of those wanted"""
    quorum: Annotated[float, Field(gt=0, le=1)] = 0.5
    """fraction of the wanted updates below which a round is retried"""
    deadline_s: Annotated[float, Field(ge=0)] = 0.0
    """seconds a round waits for updates; 0 means no limit while clients show progress"""

    def check_clients(self, clients: int, cohort: int) -> None:
        """Refuse more clients at once than there are.

        Raises:
            ValueError: with both numbers.
        """
        del cohort
        if self.clients_per_round > clients:
            raise ValueError(f"clients-per-round is {self.clients_per_round}, expected at most clients = {clients}")

    def stated(self) -> Iterator[Stated]:
        """What these settings need of a run, and what they take away."""
        if self.over_selection:
            needs = {
                Trait.WAITS: "those in excess are released when it ends",
                Trait.RELEASED: "those in excess are",
            }
            yield self.says("over_selection", needs=needs)
        if self.deadline_s:
            yield self.says("deadline_s", needs={Trait.WAITS: ""})

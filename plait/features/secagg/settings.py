"""Settings of secure aggregation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from plait.settings.table import Table
from plait.traits import Stated, Trait

LEAST_CLIENTS = 3
"""The fewest clients of a masked sum: in a sum of two each client knows the other's part."""


class Masks(Table):
    """Whether the server sees sums alone."""

    table: ClassVar[str] = "privacy"
    heading: ClassVar[str] = "Privacy"

    secure_aggregation: bool = False
    """hide every client's update, losses and counts from the server, which learns only their sums"""

    def check_clients(self, clients: int, cohort: int) -> None:
        """Refuse rounds and evaluations of fewer clients than a masked sum has."""
        del clients, cohort
        for name in ("clients", "clients_per_round", "eval_clients") if self.secure_aggregation else ():
            if 0 < getattr(self, name) < LEAST_CLIENTS:
                raise ValueError(
                    f"{self.says(name)} and secure-aggregation is true, expected at least {LEAST_CLIENTS}: in a sum of "
                    "two each client knows the other's part"
                )

    def stated(self) -> Iterator[Stated]:
        """What these settings need of a run, and what they take away."""
        if self.secure_aggregation:
            yield self._says_masked()

    def _says_masked(self) -> Stated:
        needs = {
            Trait.WAITS: "a masked sum needs all its clients at once",
            Trait.EQUAL_STEPS: "no client's weight is known",
            Trait.ONE_RANK: "only updates of one shape have a sum",
            Trait.LINEAR: "",
            Trait.VOUCHED: "else a client cannot tell real clients from ones that the server made up",
        }
        takes = {
            Trait.SINGLE_UPDATES: "the server sees their masked sum alone",
            Trait.FIGURES: "the server sees their masked sums alone",
            Trait.RELEASED: "a client that has sent a masked update is in the sum",
        }
        return self.says("secure_aggregation", needs=needs, takes=takes)

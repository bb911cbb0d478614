"""Settings of who takes part in a round, and how long it waits."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import Field, field_validator

from plait.settings.table import Table
from plait.traits import Stated, Trait

TREE = re.compile(r"[1-9][0-9]{0,6}(x[1-9][0-9]{0,6}){0,7}")
"""The form of `Cohort.tree`."""


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
    tree: str = ""
    """servers below this one, such as 10x100: 10 regions, each the server of 100 clients and a client of this one, to
    which it sends the exact sum of their updates; by default none"""

    @field_validator("tree")
    @classmethod
    def _check_tree(cls, tree: str) -> str:
        if tree and not TREE.fullmatch(tree):
            raise ValueError("expected whole numbers such as 10x100, or 2x5x100")
        return tree

    @property
    def levels(self) -> tuple[int, ...]:
        """The numbers of `tree`: this server's regions, their regions and so on, and last the clients of each."""
        return tuple(map(int, self.tree.split("x"))) if self.tree else ()

    def check_clients(self, clients: int, cohort: int) -> None:
        """Refuse more clients at once than there are, and another tree.

        Raises:
            ValueError: with both numbers.
        """
        del cohort
        if self.clients_per_round > clients:
            raise ValueError(f"clients-per-round is {self.clients_per_round}, expected at most clients = {clients}")
        if self.tree and clients % (below := math.prod(self.levels)):
            raise ValueError(f"clients is {clients} and tree is '{self.tree}', expected {below} clients")

    def stated(self) -> Iterator[Stated]:
        """What these settings need of a run, and what they take away."""
        if self.clients_per_round:
            yield self.says("clients_per_round", needs={Trait.ONE_SERVER: "it draws those of a round"})
        if self.over_selection:
            needs = {
                Trait.ONE_SERVER: "it draws those of a round",
                Trait.WAITS: "those in excess are released when it ends",
                Trait.RELEASED: "those in excess are",
            }
            yield self.says("over_selection", needs=needs)
        if self.deadline_s:
            yield self.says("deadline_s", needs={Trait.WAITS: ""})
        if self.tree:
            needs = {
                Trait.WAITS: "regions know no staleness",
                Trait.ONE_RANK: "only updates of one shape have a sum",
                Trait.LINEAR: "a region sends the sum of its clients' updates",
            }
            yield self.says("tree", needs=needs, takes={Trait.ONE_SERVER: "a region asks all of its own clients"})

"""Settings of a tree of servers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, cast

from pydantic import field_validator, model_validator

from plait.errors import ConfigError
from plait.settings.table import Table
from plait.traits import Stated, Trait

if TYPE_CHECKING:
    from plait.config import RunConfig

_FORM = re.compile(r"[1-9][0-9]{0,6}(x[1-9][0-9]{0,6}){0,7}")


class Trees(Table):
    """Servers between this one and the clients."""

    table: ClassVar[str] = "trees"
    heading: ClassVar[str] = "Regional servers"

    tree: str = ""
    """servers below this one, such as 10x100: 10 regions, each the server of 100 clients and a client of this one, to
    which it sends the exact sum of their updates; by default none"""

    @model_validator(mode="before")
    @classmethod
    def _count_clients(cls, given: object) -> object:
        """The clients of a tree need not be counted by the user."""
        table = cast("dict[str, object]", given) if isinstance(given, dict) else {}
        tree = table.get("tree")
        if isinstance(tree, str) and _FORM.fullmatch(tree) and "clients" not in table:
            return {**table, "clients": math.prod(numbers(tree))}
        return given

    @field_validator("tree")
    @classmethod
    def _check_tree(cls, tree: str) -> str:
        if tree and not _FORM.fullmatch(tree):
            raise ValueError("expected whole numbers such as 10x100, or 2x5x100")
        return tree

    def check_clients(self, clients: int, cohort: int) -> None:
        """Refuse another number of clients than the tree has.

        Raises:
            ValueError: with both numbers.
        """
        del cohort
        if self.tree and clients % (below := math.prod(numbers(self.tree))):
            raise ValueError(f"clients is {clients} and tree is '{self.tree}', expected {below} clients")

    def stated(self) -> Iterator[Stated]:
        """What these settings need of a run, and what they take away."""
        if self.tree:
            needs = {
                Trait.WAITS: "regions know no staleness",
                Trait.ONE_RANK: "only updates of one shape have a sum",
                Trait.LINEAR: "a region sends the sum of its clients' updates",
            }
            yield self.says("tree", needs=needs, takes={Trait.ONE_SERVER: "a region asks all of its own clients"})


def numbers(tree: str) -> tuple[int, ...]:
    """The numbers of a tree: a server's regions, their regions and so on, and last the clients of each."""
    return tuple(map(int, tree.split("x")))


def levels(settings: Mapping[str, object]) -> tuple[int, ...]:
    """The same, of a run's settings by name."""
    return numbers(str(settings["tree"]))


def check(settings: RunConfig, *, simulates: bool) -> None:
    """Refuse another number of simulated clients than the tree has.

    Raises:
        ConfigError: with both numbers.
    """
    if simulates and (count := math.prod(settings.levels)) != settings.clients:
        tree = vars(settings)["tree"]
        raise ConfigError(f"clients is {settings.clients} and tree is '{tree}', expected {count}")

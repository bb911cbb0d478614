"""How rounds of an asynchronous run are filled."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from plait.settings.table import Table
from plait.traits import Stated, Trait


class Asynchronous(Table):
    """Whether rounds wait."""

    table: ClassVar[str] = "asynchronous"
    heading: ClassVar[str] = "Asynchronous rounds"
    within: ClassVar = {"buffer": ("rounds_mode", ("async",))}

    rounds_mode: Literal["sync", "async"] = "sync"
    """sync: a round waits for its cohort; async: clients train whenever they are free, and a round aggregates a buffer
    of updates once it is full
    """
    buffer: Annotated[int, Field(ge=0)] = 0
    """with rounds-mode async, updates per round; 0 means a quarter of the clients at work, at least two"""

    def check_clients(self, clients: int, cohort: int) -> None:
        """Refuse a buffer that waits for others than those at work.

        Raises:
            ValueError: with both numbers.
        """
        del clients
        if self.buffer > cohort:
            raise ValueError(
                f"buffer is {self.buffer} and {cohort} clients are at work at once, expected at most as many: a "
                f"client has one update in a buffer at most"
            )
        if self.buffer == 1 < cohort:
            raise ValueError("buffer is 1, expected at least 2: norm checks compare the updates of a buffer")

    def stated(self) -> Iterator[Stated]:
        """What these settings need of a run, and what they take away."""
        if self.rounds_mode == "async":
            across = "updates of several rounds are added"
            needs = {
                Trait.LINEAR: across,
                Trait.SAME_FACTORS: across,
                Trait.SAME_SIDES: across,
                Trait.RELEASED: "a client that began too long ago is",
            }
            yield self.says("rounds_mode", needs=needs, takes={Trait.WAITS: "asynchronous rounds do not wait"})

"""What masks hide in a run, in words: for the report, the adapter's card and `plait privacy`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from plait.features.secagg.events import SumUnmasked
from plait.rounds.events import Event

if TYPE_CHECKING:
    from plait.adapters import Json

MASKED_NOT_COVERED: tuple[str, ...] = (
    "the sum itself, and adapters made from it: masks add no noise, so they tell as much as the sum does",
    "who took part, when, and that a client failed",
    "clients that send nonsense: no single update can be inspected",
)
"""What masks say nothing about."""


_WHO_COULD_CHEAT = "anyone who holds the authority's key could make up clients: keep it offline, away from the server"


@dataclass(frozen=True)
class MaskedCard:
    """What masks hide in a run with secure aggregation, as far as the run has come.

    Attributes:
        least: clients in the smallest of them.
        colluding: clients that could help the server without showing it another's part.
        certified: whether all clients proved their keys to each other by certificates.
        noised: whether clients added noise to all of them.
    """

    sums: int
    least: int
    colluding: int
    certified: bool
    noised: bool = False

    title: ClassVar[str] = "Secure aggregation"
    warning: ClassVar[str] = ""
    headline: ClassVar[str] = ""
    trust: ClassVar[tuple[str, str]] = ("Sums under masks", "The server saw sums of updates, and no update alone. ")
    hides_clients: ClassVar[bool] = True
    status: ClassVar[Mapping[str, Json]] = {}

    def line(self, event: Event) -> str:
        """Nothing: a sum is unmasked in every round."""
        del event
        return ""

    @classmethod
    def after(cls, card: Self | None, event: SumUnmasked) -> Self:
        """The card once one more sum is unmasked."""
        colluding = _colluding(event)
        if card is None:
            return cls(1, event.clients, colluding, event.certified, event.noised)
        return cls(
            card.sums + 1,
            min(card.least, event.clients),
            min(card.colluding, colluding),
            card.certified and event.certified,
            card.noised and event.noised,
        )

    @property
    def facts(self) -> tuple[tuple[str, str], ...]:
        """What is hidden, from whom, and what is not, fact by fact."""
        proven = ("Keys", f"proven by every client to every other with its certificate; {_WHO_COULD_CHEAT}")
        simulated = (
            "Simulated",
            "one operator holds all keys of a simulation: it shows costs and results and protects no one",
        )
        return (
            (
                "Hidden",
                "each client's update and losses, which left it under masks, and its counts, which did not leave it",
            ),
            ("From", f"the server, and up to {self.colluding} clients together with it"),
            ("Learned", f"{self.sums} sums, none of fewer than {self.least} clients"),
            ("Kept to", "one sum with a client's update in each round and one with its losses, whatever failed"),
            proven if self.certified else simulated,
            *(("Not covered", text) for text in MASKED_NOT_COVERED[int(self.noised) :]),
        )


def _colluding(each: SumUnmasked) -> int:
    """How many clients may help the server without showing it another's part."""
    if each.neighbours < each.roster - 1:
        return each.roster // 10  # see plait.features.secagg.graph
    # In a sum of three, two know the third's part.
    return max(0, min(2 * each.threshold - each.roster - 1, each.clients - 2))


def after(card: MaskedCard | None, event: Event) -> MaskedCard | None:
    """The card of a run once one more event is known; None before the first sum."""
    return MaskedCard.after(card, event) if isinstance(event, SumUnmasked) else card

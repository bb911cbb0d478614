"""The events of masked sums, and what masks hide, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from plait.guarantees import colluding
from plait.ledger.events import Count, Event, Number

if TYPE_CHECKING:
    from plait.adapters import Json


class SumUnmasked(Event):
    """The masks were taken off a sum over a group of clients; nothing else of what they sent is known."""

    event = "sum_unmasked"
    is_public = True
    round: Count
    purpose: str = ""  # ``train``, ``evaluate`` or ``judge``
    invited: Count = 0  # clients asked for keys
    roster: Count = 0  # that offered some
    shared: Count = 0  # that shared their secrets
    clients: Count  # whose numbers are in the sum
    threshold: Count = 0  # fewest clients that a sum is unmasked for
    neighbours: Count = 0  # of each client, with whom it shares masks
    bits: Count = 0
    unit: Number = 0.0  # size of the grid that updates were rounded to
    certified: bool = False  # whether all clients proved their node keys to each other by certificates
    noised: bool = False  # whether each client added its share of the noise of differential privacy
    evaluated_by: tuple[str, ...] = ()  # names of the clients, of a sum of losses

    @property
    def sections(self) -> Mapping[str, MaskedCard]:
        """What masks hide, from the first sum on."""
        return {"masks": MaskedCard(1, self.clients, colluding(self.roster), self.certified, self.noised)}


class GroupLeftOut(Event):
    """The mean of a group lies far from those of the other groups, so its sum does not count.

    One of its clients at least may depart from the protocol. `distance` is from the median of the groups' means, over
    the median of these distances.
    """

    event = "group_left_out"
    is_public = True
    purpose: ClassVar[str] = "train"
    round: Count
    clients: tuple[str, ...]
    distance: Number


class EvaluationMissed(Event):
    """The masked sum of the losses after `round` is impossible, lost or unavailable; `detail` is why."""

    event = "evaluation_missed"
    is_public = True
    round: Count
    detail: str = ""


MASKED_NOT_COVERED: tuple[str, ...] = (
    "the sum itself, and adapters made from it: masks add no noise, so they reveal as much as the sum does",
    "who took part, when, and that a client failed",
    "clients that send nonsense: no single update can be inspected",
)
"""What masks do not hide."""

_PROVEN = (
    "proven by every client to every other with its certificate; anyone who holds the authority's key could make up "
    "clients: keep it offline, away from the server"
)
_SIMULATED = "one operator holds all keys of a simulation: it shows costs and results and protects no one"
_HIDDEN = "each client's update and losses, which left it under masks, and its counts, which did not leave it"


@dataclass(frozen=True)
class MaskedCard:
    """What masks hide in a run, as far as the run has come."""

    sums: int
    least: int  # clients in the smallest of its sums
    colluding: int  # clients that could help the server without showing it another's part
    certified: bool
    noised: bool = False

    title: ClassVar[str] = "Secure aggregation"
    warning: ClassVar[str] = ""
    headline: ClassVar[str] = ""
    trust: ClassVar[tuple[str, str]] = ("Sums under masks", "The server saw sums of updates, and no update alone. ")
    hides_clients: ClassVar[bool] = True
    status: ClassVar[Mapping[str, Json]] = {}

    def after(self, event: Event) -> MaskedCard:
        """The card once one more event is known."""
        if not isinstance(event, SumUnmasked):
            return self
        return MaskedCard(
            self.sums + 1,
            min(self.least, event.clients),
            min(self.colluding, colluding(event.roster)),
            self.certified and event.certified,
            self.noised and event.noised,
        )

    def line(self, event: Event) -> str:
        """Nothing: a sum is unmasked in every round."""
        del event
        return ""

    @property
    def facts(self) -> tuple[tuple[str, str], ...]:
        """What is hidden, from whom, and what is not, fact by fact."""
        return (
            ("Hidden", _HIDDEN),
            ("From", f"the server, and up to {self.colluding} client{'s' * (self.colluding != 1)} together with it"),
            ("Learned", f"{self.sums} sums, none of fewer than {self.least} clients"),
            ("Kept to", "one sum with a client's update in each round and one with its losses, whatever failed"),
            ("Keys", _PROVEN) if self.certified else ("Simulated", _SIMULATED),
            *(("Not covered", text) for text in MASKED_NOT_COVERED[int(self.noised) :]),
        )

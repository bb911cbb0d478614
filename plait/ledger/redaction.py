"""What a ledger, and so everything that people read of a run, has where clients keep their figures to themselves.

And the events of masked sums, and what masks hide, in words.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from plait.guarantees import colluding
from plait.ledger import events
from plait.ledger.events import Count, Event, Number
from plait.system.text import Json


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
    def sections(self) -> "Mapping[str, MaskedCard]":
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

    def after(self, event: Event) -> Self:
        """The card once one more event is known."""
        if not isinstance(event, SumUnmasked):
            return self
        return replace(
            self,
            sums=self.sums + 1,
            least=min(self.least, event.clients),
            colluding=min(self.colluding, colluding(event.roster)),
            certified=self.certified and event.certified,
            noised=self.noised and event.noised,
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


ALL = frozenset({"*"})
"""All fields of an event."""

KEPT: Mapping[type[Event], frozenset[str]] = {
    # Settings, and what follows from settings and noised means alone.
    events.RunStarted: frozenset(events.RunStarted.model_fields) - {"data"},
    events.Resumed: ALL,
    events.Interrupted: ALL,
    events.RunFinished: ALL,
    events.EndedEarly: ALL,
    events.PublishFailed: ALL,
    events.Broadcast: ALL,
    events.RoundFinished: frozenset(events.RoundFinished.model_fields) - {"clipped", "weight_capped", "diagnostics"},
    # Who takes part, and when: not hidden.
    events.WaitingForClients: ALL,
    events.ClientsGathered: ALL,
    events.RoundStarted: ALL,
    events.ClientReplaced: ALL,
    events.RoundMissed: ALL,
    events.ClientsDescribed: frozenset({"clients"}),
    events.ClientTurnedAway: frozenset({"node", "client", "reason"}),
    events.ReplyReceived: frozenset({"round", "client", "purpose"}),
    events.UpdateReceived: frozenset({"round", "client", "codec", "clients"}),
    events.UpdateRefused: frozenset({"round", "client", "reason", "stage"}),
    # Losses of clients' data: left out as a whole.
    events.Evaluated: frozenset(),
    events.Judged: frozenset(),
    events.StepTakenBack: frozenset(),
    events.NotPublished: frozenset(),
    events.Reference: frozenset(),
    # Recorded only where the run's operator asks for it, who is warned that membership is not covered.
    events.Audited: ALL,
    events.ClientErased: ALL,
}
"""The fields that are kept, by event; ``*`` for all, none for an event that is left out."""

KEPT_MASKED: Mapping[type[Event], frozenset[str]] = {
    **KEPT,
    # The mean alone: no client's own.
    events.Evaluated: frozenset(events.Evaluated.model_fields) - {"by_client"},
    events.Judged: frozenset(events.Judged.model_fields) - {"by_client"},
    events.NotPublished: ALL,
    events.UpdateReceived: frozenset(
        {"round", "client", "codec", "uplink_bytes", "payload_bytes", "bits_per_parameter"}
    ),
    events.ReplyReceived: frozenset({"round", "client", "purpose", "uplink_bytes"}),
    # In the server's words, of what it can see.
    events.UpdateRefused: ALL,
}
"""The same for a run with secure aggregation: the server knows no more than this of a client, and records no more."""

KEPT_OF_RECORDS: Mapping[type[Event], frozenset[str]] = {
    **KEPT,
    # An update has its noise already; what is left out of it is what its client measured.
    events.UpdateReceived: frozenset(
        {
            "round", "client", "uplink_bytes", "payload_bytes", "envelope_bytes", "codec", "bits_per_parameter",
            "digest", "norms", "signed", "signature", "epsilon", "clients",
        }
    ),
    events.ReplyReceived: frozenset({"round", "client", "purpose", "uplink_bytes"}),
    events.RoundFinished: ALL,
}  # fmt: skip
"""The same for a run with private records."""

_OF_CLIENT = frozenset({"client", "rank", "public_key", "clients"})


def screened(
    event: Event, *, kept: Mapping[type[Event], frozenset[str]] = KEPT, update_bytes: int | None = None
) -> Event | None:
    """What of an event is recorded; None for nothing.

    Args:
        update_bytes: the size that updates are encoded to, where their own sizes are left out.
    """
    names = kept.get(type(event), ALL if event.is_public else frozenset())
    if names == ALL:
        return event
    if not names:
        return None
    fields: dict[str, Json] = {name: value for name, value in event.fields().items() if name in names}
    match event:
        case events.ClientsDescribed():
            fields["clients"] = [client.model_dump(mode="json", include=set(_OF_CLIENT)) for client in event.clients]
        case events.UpdateReceived() if update_bytes is not None:
            fields["uplink_bytes"] = update_bytes
        case _:
            pass
    return type(event).model_validate(fields)

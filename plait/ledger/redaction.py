"""What a ledger, and so everything that people read of a run, has where clients keep their figures to themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from plait.ledger import events
from plait.ledger.events import Event

if TYPE_CHECKING:
    from plait.adapters import Json

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

"""What the ledger of a run says whose clients keep their figures to themselves; what is not named is left out.

Everything that people read of a run (terminal, report, summary, cards, status, metrics, log) is made from its ledger,
so this one table decides what they get. Kept are settings, who took part when, and what follows from the noised mean.
Left out is what a client computes from its data: losses, counts, times, sizes and digests of its update, and its own
words; and the digest and size of all simulated clients' data, against which a guess of one client's could be tested.

Messages of clients have sizes that depend on their data too: instead of them the ledger has the size that the encoding
aims at. Knows no ledger file.
"""

from __future__ import annotations

from collections.abc import Mapping

from plait.adapters import Json
from plait.rounds import events
from plait.rounds.events import Event

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
    events.StepTakenBack: frozenset(),
    events.Reference: frozenset(),
    # Recorded only where the run's operator asks for it, who is told that membership is not covered.
    events.Audited: ALL,
    events.ClientErased: ALL,
}
"""The fields that are kept, by event; ``*`` for all, none for an event that is left out."""

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

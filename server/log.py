"""The server's log: one line per event, ``event=... key=value ...``, on Python's logger ``plait.server``.

Text from peers is escaped and cut, so that no peer can forge a line or fill the disk with one.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from typing import Any

from plait.ledger import events

LOGGER = logging.getLogger("plait.server")

_MAX_VALUE_CHARACTERS = 200
_PLAIN = re.compile(r"[A-Za-z0-9_.:/@+\-\[\]]+")

# Events of the ledger, their names here, and the fields to log.
_LOGGED: Mapping[type[events.Event], tuple[str, tuple[str, ...]]] = {
    events.WaitingForClients: ("waiting-for-clients", ("here", "fit", "unfit", "wanted", "missing")),
    events.ClientsGathered: ("clients-gathered", ("fit", "wanted")),
    events.ClientTurnedAway: ("cannot-take-part", ("client", "reason", "detail")),
    events.ClientReplaced: ("client-replaced", ("round", "client", "by")),
    events.UpdateRefused: ("update-refused", ("round", "client", "reason", "stage", "detail")),
    events.StepTakenBack: ("step-taken-back", ("round", "worse", "accepted", "taken_back", "scale")),
    events.NotPublished: ("not-published", ("round", "kept", "risen", "above")),
    events.EndedEarly: ("ended-early", ("round", "reason")),
    events.RoundMissed: ("round-missed", ("round", "attempt", "received")),
}
_ONLY_IF_ANY = frozenset({"missing", "stage"})


def log(event: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """Log an event; field values other than plain words are written as JSON strings in ASCII."""
    if LOGGER.isEnabledFor(level):
        LOGGER.log(level, "%s", " ".join(f"{key}={shown(value)}" for key, value in {"event": event, **fields}.items()))


def log_run_event(event: events.Event) -> None:
    """Log the events of a run's ledger that matter to an operator."""
    if isinstance(event, events.ClientsDescribed):
        for client in event.clients:
            log("takes-part", client=client.client, train_examples=client.train_examples)
    elif logged := _LOGGED.get(type(event)):
        name, keys = logged
        fields = {key: getattr(event, key) for key in keys}
        log(name, **{key: value for key, value in fields.items() if value or key not in _ONLY_IF_ANY})


def shown(value: object) -> str:
    """A value on one line, in ASCII, of bounded length."""
    text = str(value)
    if len(text) > _MAX_VALUE_CHARACTERS:
        text = f"{text[:_MAX_VALUE_CHARACTERS]}..."
    return text if _PLAIN.fullmatch(text) else json.dumps(text)

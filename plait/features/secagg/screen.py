"""What the ledger of a run with secure aggregation says of its clients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from plait.config import RunConfig
from plait.rounds import events
from plait.rounds.events import Event
from plait.rounds.withheld import ALL, KEPT, screened

KEPT_MASKED: Mapping[type[Event], frozenset[str]] = {
    **KEPT,
    # The mean alone: no client's own.
    events.Evaluated: frozenset(events.Evaluated.model_fields) - {"by_client"},
    events.UpdateReceived: frozenset(
        {"round", "client", "codec", "uplink_bytes", "payload_bytes", "bits_per_parameter"}
    ),
    events.ReplyReceived: frozenset({"round", "client", "purpose", "uplink_bytes"}),
    # In the server's words, of what it can see.
    events.UpdateRefused: ALL,
}
"""The same for a run with secure aggregation: the server knows no more than this of a client, and says as much."""


def screen(config: RunConfig, update_bytes: int) -> Callable[[Event], Event | None]:
    """What of an event is recorded."""
    del config, update_bytes
    return partial(screened, kept=KEPT_MASKED)

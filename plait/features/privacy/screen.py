"""What the ledger of a run with differential privacy says of its clients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from plait.config import RunConfig
from plait.rounds import events
from plait.rounds.events import Event
from plait.rounds.withheld import ALL, KEPT, screened

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


def screen(config: RunConfig, update_bytes: int) -> Callable[[Event], Event | None] | None:
    """What of an event is recorded; None where the server sees sums alone, and so has no more to say."""
    unit = vars(config)["dp"]
    if unit == "off" or config.fewest_together(config.cohort_size):
        return None
    return partial(screened, kept=KEPT_OF_RECORDS) if unit == "record" else partial(screened, update_bytes=update_bytes)

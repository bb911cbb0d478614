"""What a gate records: that an adapter stays in quarantine, that it was released, and who released it all the same."""

from __future__ import annotations

from collections.abc import Mapping

from plait.rounds.events import Event, Number


class Quarantined(Event):
    """Conditions do not hold, or are not measured yet.

    Attributes:
        adapter: digest of the adapter.
        failed: each condition that does not hold, and its figure.
        unmeasured: conditions that nothing was measured for, and what measures them.
    """

    event = "quarantined"
    adapter: str
    failed: tuple[str, ...] = ()
    unmeasured: tuple[str, ...] = ()


class Released(Event):
    """All conditions hold.

    Attributes:
        adapter: digest of the adapter.
        conditions: as the settings have them.
        figures: what they were judged by; 1 and 0 stand for yes and no.
    """

    event = "released"
    adapter: str
    conditions: str
    figures: Mapping[str, Number] = {}


class ReleasedAnyway(Event):
    """An operator released the adapter although conditions do not hold.

    Attributes:
        adapter: digest of the adapter.
        by: the operator's name.
        reason: in the operator's words.
        failed: conditions that do not hold, or are not measured.
        certificate: the operator's, in PEM.
        signature: by its key, in hexadecimal, over the canonical JSON of run, adapter, reason and failed.
    """

    event = "released_anyway"
    adapter: str
    by: str
    reason: str
    failed: tuple[str, ...] = ()
    certificate: str
    signature: str

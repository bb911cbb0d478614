"""Whether a run's plug-ins are still what they were when it began: the ledger has the digests of their sources."""

from __future__ import annotations

from collections.abc import Sequence

from plait.errors import ConfigError
from plait.part_source import Source
from plait.rounds.events import Event, Plugin, start_of


def check_sources(events: Sequence[Event], found: Sequence[Source]) -> None:
    """Refuse to continue a run whose plug-ins have another source now.

    Raises:
        ConfigError: says which one.
    """
    here = {(each.kind.value, each.name): each for each in found}
    start = start_of(events)
    for began in start.plugins if start else ():
        now = here.get((began.kind, began.name))
        if now is not None and began.sha256 != now.sha256:
            raise ConfigError(
                f"source of {began.kind} '{began.name}' is {now.sha256[:16] or 'unknown'} here, expected "
                f"{began.sha256[:16] or 'unknown'} as when the run began{_of(began)}: bring that source back, or begin "
                "a new run"
            )


def _of(plugin: Plugin) -> str:
    return f" ({plugin.distribution})" if plugin.distribution else ""

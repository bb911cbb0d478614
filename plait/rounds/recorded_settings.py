"""What a run began with as its ledger has it: its settings, and the sources of its plug-ins.

The hash-chained ledger's first event is their source; config.toml is a copy for people, and must equal it. Imports
nothing that the settings name: `plait.api.received` says what may be. The ledger has the digests of plug-ins' sources,
too.
"""

from __future__ import annotations

from collections.abc import Sequence

from plait.config import RunConfig, config_from_table
from plait.errors import ConfigError, PeerError
from plait.plugins import Source
from plait.rounds.events import Event, Plugin, start_of
from plait.rounds.ledger import read_events
from plait.rounds.run_directory import RunDirectory
from plait.settings.toml import read_config_table


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


def recorded_settings(directory: RunDirectory, events: list[Event] | None = None) -> RunConfig:
    """The settings that a run began with; ``out`` is the directory, wherever it has been moved to.

    Args:
        events: of its ledger, if they have been read.

    Raises:
        ConfigError: config.toml is missing or differs from the ledger, or the settings are not valid.
        PeerError: the ledger is broken, or does not begin with settings.
    """
    events = read_events(directory.ledger) if events is None else events
    start = start_of(events)
    if start is None:
        raise PeerError(f"'{directory.ledger}' does not begin with a run's settings, expected the ledger of a run")
    recorded = config_from_table(start.config, where=f"'{directory.ledger}'")
    kept = config_from_table(read_config_table(directory.config), where=f"'{directory.config}'")
    before, now = recorded.to_table(), kept.to_table()
    for key in before.keys() - {"out"}:
        if before[key] != now[key]:
            raise ConfigError(
                f"{key} is {now[key]!r} in '{directory.config}' but {before[key]!r} in the run's ledger: the file was "
                "changed after the run began; put it back"
            )
    return recorded.model_copy(update={"out": str(directory.path)})

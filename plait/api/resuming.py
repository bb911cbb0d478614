"""What `plait resume` and `plait.resume` continue a run with: its settings, as its directory has them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from plait.api.received import admitted_settings
from plait.config import RunConfig
from plait.errors import ConfigError
from plait.rounds.events import RunStarted, Started
from plait.rounds.ledger import read_events
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_view import RunView

if TYPE_CHECKING:
    from plait.api.serving import Serving


def settings_of(
    directory: RunDirectory,
    allowed: Sequence[str] = (),
    *,
    without: Collection[str] = (),
    serving: Serving | None = None,
) -> RunConfig:
    """The settings of an unfinished run, from its directory, wherever that has been moved to.

    Parts of the user's own that they name may be imported from here on. The arguments are those of `admitted_settings`.

    Raises:
        ConfigError: the run is finished and its report is written, the settings are not valid, or they name what the
            operator does not.
        PeerError: the ledger is broken.
    """
    run = directory.path
    events = read_events(directory.ledger)
    if events and isinstance(first := events[0], Started) and not isinstance(first, RunStarted):
        raise ConfigError("'{}' is {}, expected a run's directory: {}".format(run, *first.no_run))
    settings = admitted_settings(directory, allowed, without=without, serving=serving)
    view = RunView.after(events)
    if view.finished and view.references.keys() >= set(settings.references) and is_reported(run):
        raise ConfigError(f"'{run}' is finished, there is nothing to resume; `plait report {run}` shows it")
    return settings


def is_reported(run: Path) -> bool:
    """Whether the report has been written since the ledger was."""
    try:
        return (run / "report.html").stat().st_mtime_ns >= (run / "ledger.jsonl").stat().st_mtime_ns
    except FileNotFoundError:
        return False

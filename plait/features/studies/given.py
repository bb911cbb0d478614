"""What a sweep gave for a run, in a hidden file of the run's directory; tells whether the run is over.

So a sweep that is started again with other settings notices.
"""

from __future__ import annotations

import json
from pathlib import Path

from plait.config import config_from_table, key_named
from plait.errors import ConfigError
from plait.features.studies.grid import Settings
from plait.files import cannot_write, read_if_there, write_atomically
from plait.rounds.ledger import read_events
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_view import RunView

_GIVEN = ".given.json"


def write_given(settings: Settings, path: Path) -> None:
    """Make the run's directory, with its given settings.

    Raises:
        MachineError: it cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error, doing="make the run directory") from error
    write_atomically(path / _GIVEN, _text_of(settings))


def is_done(settings: Settings, path: Path) -> bool:
    """Whether the run in a directory is over.

    Raises:
        ConfigError: it was begun with other settings.
        PeerError: its ledger is broken.
    """
    directory = RunDirectory(path)
    if not directory.has_started:
        return False
    given = read_if_there(path / _GIVEN)
    if given is None:
        raise ConfigError(f"'{path}' holds a run that no sweep began, expected another --out")
    if given != _text_of(settings):
        raise ConfigError(f"'{path}' holds a run with {_changed(given, settings)}; give another --out")
    events = read_events(directory.ledger)
    asked = config_from_table(settings, where=str(path)).references
    view = RunView.after(events)
    return view.finished and view.references.keys() >= set(asked)


def _text_of(settings: Settings) -> bytes:
    return json.dumps(settings, sort_keys=True).encode()


def _changed(given: bytes, settings: Settings) -> str:
    try:
        before = json.loads(given)
        keys = sorted(key_named(key, where="run") for key in before.keys() | settings.keys())
        changed = next(key for key in keys if before.get(key) != settings.get(key))
        return f"{changed} {before.get(changed, 'by default')}, not {settings.get(changed, 'by default')}"
    except (ValueError, AttributeError, StopIteration):
        return "other settings"

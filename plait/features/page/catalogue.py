"""The runs that a page shows: named directories, and all runs of folders, looked for at each request.

Knows no ledger but by its place; a run's figures in the list are those of its summary. Of a folder that is a federation
it has the queue, from its journal.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

from plait.adapters import Json
from plait.adapters.parent import parents_from
from plait.adapters.peft_directory import WEIGHTS_FILE
from plait.errors import ConfigError, PeerError
from plait.files import open_plain
from plait.rounds.events import RunFinished
from plait.rounds.ledger import Line
from plait.rounds.run_directory import RunDirectory

MOST_RUNS = 500
_MOST_ENTRIES = 10_000
_SUMMARY_FILE = "summary.json"
_SUMMARY_BYTES = 4 << 20
_TAIL_BYTES = 1 << 16
_FROM_SUMMARY = ("rounds", "clients", "base_held_out_loss", "final_held_out_loss", "uplink_bytes", "downlink_bytes")

_FIRST_BYTES = 4 << 20
_WEIGHTS_BYTES = 256 << 20
_BEGAN_FROM = "began_from"
_Stamp = tuple[tuple[int, int, int], ...]
_Entry = dict[str, Json]


class Catalogue:
    """Run directories by name.

    Args:
        places: run directories, and folders with run directories in them or in their ``runs/``.
        expected: one of the places that need not hold a run yet.
        folder: whether that one is a folder of runs.

    Raises:
        ConfigError: one is neither, or two runs have the same name.
    """

    def __init__(self, places: Sequence[Path], *, expected: Path | None = None, folder: bool = False) -> None:
        self._named: dict[str, Path] = {}
        self._folders: list[Path] = []
        self._entries: dict[Path, tuple[_Stamp, _Entry]] = {}
        self._digests: dict[Path, tuple[_Stamp, str]] = {}
        for place in places:
            if place == expected and folder:
                self._folders.append(place / "runs")
            elif RunDirectory(place).has_started or place == expected:
                self._name(place)
            elif place.is_dir():
                self._folders += [place / "runs" if (place / "runs").is_dir() else place]
            else:
                raise ConfigError(f"'{place}' is not there, expected a run or a folder of runs")
        if expected is None and not self._named and not any(True for folder in self._folders for _ in _runs_in(folder)):
            raise ConfigError(
                f"'{places[0]}' holds no run (no ledger.jsonl with an event), expected a run or a folder of runs"
            )

    def _name(self, place: Path) -> None:
        name = place.resolve().name
        if self._named.setdefault(name, place) != place:
            raise ConfigError(f"two runs are called '{name}', expected different names")

    def find(self, name: str) -> Path | None:
        """The directory of a run; None if there is none of this name."""
        if place := self._named.get(name):
            return place
        if not name or name in (".", "..") or "/" in name or "\0" in name:
            return None
        return next((place for folder in self._folders if RunDirectory(place := folder / name).has_started), None)

    def all(self) -> dict[str, Path]:
        """The runs by name, those written to last first; at most `MOST_RUNS`."""
        found = dict(self._named)
        for folder in self._folders:
            for place in _runs_in(folder):
                found.setdefault(place.name, place)
        newest = sorted(found.items(), key=lambda item: _written(item[1]), reverse=True)
        return dict(newest[:MOST_RUNS])

    def list(self) -> list[Json]:
        """What is shown of each run in a list, without reading its ledger; what has not changed is not read again."""
        before = self._entries
        entries: dict[Path, tuple[_Stamp, _Entry]] = {}
        for name, place in self.all().items():
            stamp = tuple(_stamp(file) for file in (RunDirectory(place).ledger, place / _SUMMARY_FILE))
            known = before.get(place)
            entries[place] = known if known and known[0] == stamp else (stamp, _entry(name, place))
        self._entries = entries
        listed = [entry for _, entry in entries.values()]
        if any(_BEGAN_FROM in entry for entry in listed):
            named = {self._digest(place): entry["name"] for place, (_, entry) in entries.items()}
            listed = [_with_names(entry, named) for entry in listed]
        return [*listed]

    def _digest(self, place: Path) -> str:
        """Of the published adapter's file, by which other runs name it; empty for none."""
        file = RunDirectory(place).adapter / WEIGHTS_FILE
        stamp = (_stamp(file),)
        known = self._digests.get(place)
        if known is None or known[0] != stamp:
            known = self._digests[place] = stamp, _digest_of(file)
        return known[1]


def _stamp(file: Path) -> tuple[int, int, int]:
    """Changes whenever the file does; zeros while it is not there."""
    try:
        found = file.stat()
    except OSError:
        return 0, 0, 0
    return found.st_ino, found.st_size, found.st_mtime_ns


def _runs_in(folder: Path) -> Iterator[Path]:
    try:
        for number, place in enumerate(folder.iterdir()):
            if number >= _MOST_ENTRIES:
                return
            if RunDirectory(place).has_started:
                yield place
    except OSError:
        return


def _written(place: Path) -> float:
    try:
        return RunDirectory(place).ledger.stat().st_mtime
    except OSError:
        return 0.0


def _entry(name: str, place: Path) -> _Entry:
    finished = _last_event(place) == RunFinished.event
    summary = _summary(place) if finished else {}
    figures = {key: summary[key] for key in _FROM_SUMMARY if isinstance(summary.get(key), (int, float))}
    parents = _parents(place)
    began_from: _Entry = {_BEGAN_FROM: [*parents]} if parents else {}
    return {"name": name, "written": _written(place), "finished": finished, **figures, **began_from}


def _parents(place: Path) -> tuple[dict[str, Json], ...]:
    """The adapters that a run has begun from, as its first event has them; none if that cannot be read."""
    try:
        with open_plain(RunDirectory(place).ledger) as file:
            first = json.loads(file.readline(_FIRST_BYTES))
        parents = cast("Line", first).get("parents") if isinstance(first, dict) else None
        return tuple(parent.to_json() for parent in parents_from(parents))
    except (OSError, ValueError, RecursionError, PeerError):
        return ()


def _digest_of(file: Path) -> str:
    try:
        if file.stat().st_size > _WEIGHTS_BYTES:
            return ""
        with open_plain(file) as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError:
        return ""


def _with_names(entry: _Entry, named: Mapping[str, Json]) -> _Entry:
    """A run with the names of the runs that it has begun from, where they are known."""
    parents = cast("list[dict[str, Json]]", entry.get(_BEGAN_FROM, []))
    known: list[Json] = [{**each, "run": named.get(str(each["digest"]))} for each in parents]
    return {**entry, _BEGAN_FROM: known} if parents else entry


def _last_event(place: Path) -> str:
    """The kind of the last event in a ledger; empty if its end cannot be read."""
    try:
        with open_plain(RunDirectory(place).ledger) as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
            last = json.loads(file.read().rstrip(b"\n").rpartition(b"\n")[2])
    except (OSError, ValueError, RecursionError):
        return ""
    return str(cast("Line", last).get("event", "")) if isinstance(last, dict) else ""


def _summary(place: Path) -> Mapping[str, Json]:
    """A finished run's summary; empty if there is none to read."""
    try:
        with open_plain(place / _SUMMARY_FILE) as file:
            said = json.loads(file.read(_SUMMARY_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return cast("Mapping[str, Json]", said) if isinstance(said, dict) else {}

"""The queue of runs and the past ones: a folder with a file for each run, so a killed server forgets nothing.

Knows nothing of gRPC, of clients, and of how a run is driven.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from plait.config import Scalar
from plait.errors import ConfigError, PeerError, PlaitError
from plait.files import cannot_write, lock, make_private_directory, write_atomically

RUNS_FOLDER = "runs"
MOST_QUEUED = 64
_QUEUE_FOLDER = "queue"
_LOCK_FILE = "server.lock"
_MOST_DETAIL = 1000  # characters
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class State(StrEnum):
    """The states of a run, in their order."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Entry:
    """One run, its `place` in the order of submission, and times in seconds since 1970; its file holds the same."""

    run: str
    place: int
    number: int
    config: Mapping[str, Scalar]
    priority: int = 0
    submitted: float = field(default_factory=time.time)
    state: State = State.QUEUED
    begun: float | None = None
    ended: float | None = None
    detail: str = ""

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens to it."""
        return self.state not in (State.QUEUED, State.RUNNING)


_ENTRY = TypeAdapter(Entry)


def read_queue(directory: Path) -> list[Entry]:
    """All runs of a federation, in the order of their submission; PeerError for a file that is not its run's."""
    entries: list[Entry] = []
    for file in (directory / _QUEUE_FOLDER).glob("[!.]*.json"):
        try:
            entry = _ENTRY.validate_json(file.read_bytes())
        except (OSError, ValidationError) as error:
            raise PeerError(f"'{file}' is damaged, expected the file of a run in the queue") from error
        if entry.run != file.stem or not _NAME.fullmatch(entry.run):
            raise PeerError(f"'{file}' is of run {entry.run[:64]!a}, expected the run of its name")
        entries.append(entry)
    return sorted(entries, key=lambda entry: entry.place)


class RunQueue:
    """The queue of a server, in its directory, which is made if missing; may be called from several threads."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._changed = threading.Condition()
        try:
            for folder in (_QUEUE_FOLDER, RUNS_FOLDER):
                make_private_directory(directory / folder)
            (directory / _LOCK_FILE).touch(mode=0o600)
            self._lock = (directory / _LOCK_FILE).open("ab", buffering=0)
        except OSError as error:
            raise cannot_write(directory, error) from error
        try:
            if not lock(self._lock):
                raise ConfigError(f"'{directory}' is being served by another process")
            self._entries = {entry.run: entry for entry in read_queue(directory)}
        except PlaitError:
            self._lock.close()
            raise

    def close(self) -> None:
        """Let another server have the directory."""
        self._lock.close()

    def folder(self, run: str) -> Path:
        """The directory of a run."""
        return self.directory / RUNS_FOLDER / run

    def entries(self) -> list[Entry]:
        """All runs, in the order of their submission."""
        with self._changed:
            return list(self._entries.values())

    def entry(self, run: str) -> Entry:
        """One run; ConfigError if there is none of this name."""
        with self._changed:
            if run not in self._entries:
                known = ", ".join(list(self._entries)[-5:]) or "none yet"
                raise ConfigError(f"run {run[:64]!a} does not exist, expected one of `plait runs` (the last: {known})")
            return self._entries[run]

    def submit(self, config: Mapping[str, Scalar], *, number: int, priority: int = 0, name: str = "") -> Entry:
        """Put a run into the queue; without a name it is the next of ``run-1``, ``run-2``.

        Raises:
            ConfigError: the name is taken or no name, or the queue is full.
        """
        with self._changed:
            if name and not _NAME.fullmatch(name):
                raise ConfigError(
                    f"run name is {name[:80]!a}, expected letters, digits, '_' and '-', at most 64, no '-' in front"
                )
            place = max((entry.place for entry in self._entries.values()), default=0) + 1
            run = name or next(run for run in map("run-{}".format, itertools.count(place)) if self._is_free(run))
            if not self._is_free(run):
                raise ConfigError(f"run '{run}' exists already, give another name")
            if sum(entry.state is State.QUEUED for entry in self._entries.values()) >= MOST_QUEUED:
                raise ConfigError(f"queue is full: {MOST_QUEUED} runs wait; cancel one")
            return self._keep(Entry(run, place, number, dict(config), priority))

    def _is_free(self, run: str) -> bool:
        return run not in self._entries and not self.folder(run).exists()

    def running(self) -> Entry | None:
        """The run that is being served, or was when the server ended."""
        return next((entry for entry in self.entries() if entry.state is State.RUNNING), None)

    def begin_next(self, *, wait_s: float) -> Entry | None:
        """The next run to serve, which is running from now on: the most urgent, and the oldest of these."""
        with self._changed:
            entry = self._changed.wait_for(self._next, wait_s)
            return self._keep(replace(entry, state=State.RUNNING, begun=time.time())) if entry else None

    def end(self, run: str, state: State, detail: str = "") -> None:
        """A run ended by itself; nothing changes if it was cancelled meanwhile."""
        with self._changed:
            entry = self._entries[run]
            if entry.state is State.RUNNING:
                self._keep(replace(entry, state=state, ended=time.time(), detail=detail[:_MOST_DETAIL]))

    def cancel(self, run: str) -> State:
        """Cancel a run; returns the state that it was in."""
        with self._changed:
            entry = self.entry(run)
            if entry.is_over:
                raise ConfigError(f"run '{run}' is over ({entry.state}), expected one that is queued or running")
            self._keep(replace(entry, state=State.CANCELLED, ended=time.time()))
            return entry.state

    def _next(self) -> Entry | None:
        queued = [entry for entry in self._entries.values() if entry.state is State.QUEUED]
        # `max` gives the first of equals: the oldest.
        return max(queued, key=lambda entry: entry.priority, default=None)

    def _keep(self, entry: Entry) -> Entry:
        """Write a run's file; only then it holds."""
        file = self.directory / _QUEUE_FOLDER / f"{entry.run}.json"
        write_atomically(file, json.dumps(asdict(entry), indent=1).encode())
        self._entries[entry.run] = entry
        self._changed.notify_all()
        return entry

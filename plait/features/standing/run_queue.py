"""The queue of runs and the past ones: nothing but what the journal says, so a killed server forgets nothing.

Knows nothing of gRPC, of clients, and of how a run is driven.
"""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from plait.adapters import Json
from plait.config import Scalar
from plait.errors import ConfigError, MachineError
from plait.features.standing.acts import Outcome, RunBegun, RunCancelled, RunEnded, RunSubmitted, parse_act
from plait.rounds.events import Event
from plait.rounds.ledger import Ledger, Line, read_lines

JOURNAL_FILE = "federation.jsonl"
RUNS_FOLDER = "runs"
MOST_QUEUED = 64
MOST_QUEUED_OF_ONE = 32
"""Runs that may wait: of all operators, and of one."""
MOST_SUBMITTED = 500
SUBMITTED_WITHIN_S = 24 * 3600.0
"""Runs that one operator may submit within that time, cancelled ones too: each takes room in the journal for good."""

_SHOWN = ("base", "method", "rule", "wire", "rounds", "clients")
_MOST_SHOWN, _MOST_DETAIL = 200, 1000  # characters of a value in a list
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
    """One run.

    Attributes:
        submitted: when, in seconds since 1970, like the two below.
        begun: when its clients were first welcomed; None if they were not.
        ended: when it ended; None if it has not.
        detail: why it failed, or who cancelled it.
    """

    run: str
    number: int
    by: str
    config: Mapping[str, Scalar]
    priority: int
    cohort_labels: tuple[str, ...]
    submitted: float
    state: State = State.QUEUED
    begun: float | None = None
    ended: float | None = None
    detail: str = ""

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens to it."""
        return self.state not in (State.QUEUED, State.RUNNING)

    def described(self) -> dict[str, Json]:
        """What is shown of it in a list."""
        shown: dict[str, Json] = {key: _shortened(self.config.get(key)) for key in _SHOWN}
        return {
            "run": self.run,
            "state": self.state.value,
            "by": self.by,
            "priority": self.priority,
            "cohort_labels": list(self.cohort_labels),
            "submitted": self.submitted,
            "begun": self.begun,
            "ended": self.ended,
            "detail": self.detail[:_MOST_DETAIL],
            **shown,
        }


def read_queue(directory: Path) -> list[Entry]:
    """All runs of a federation, in the order of their submission; for readers beside the server.

    Raises:
        PeerError: the journal is missing, or its chain is broken.
    """
    return _replayed(read_lines(directory / JOURNAL_FILE))


def shown_runs(directory: Path) -> list[Json]:
    """As `read_queue`, in the form of a list that is shown."""
    return [entry.described() for entry in read_queue(directory)]


JOURNAL = (JOURNAL_FILE, shown_runs)
"""What `plait.feature.Feature.journal` names."""


class RunQueue:
    """The queue of a server; its methods may be called from several threads.

    Args:
        directory: of the federation; made if missing.
        clock: gives the time of what is done, in seconds since 1970.

    Raises:
        PeerError: the journal that is there is not an intact chain.
        ConfigError: another server has it open.
        MachineError: cannot be written.
    """

    def __init__(self, directory: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.directory = directory
        self._clock = clock
        self._changed = threading.Condition()
        self._entries: dict[str, Entry] = {}
        try:
            (directory / RUNS_FOLDER).mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise MachineError(f"cannot make '{directory / RUNS_FOLDER}': {error.strerror or error}") from error
        self._journal = Ledger(directory / JOURNAL_FILE, on_event=self._apply, clock=clock)
        self._entries = {entry.run: entry for entry in read_queue(directory)}

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()

    def folder(self, run: str) -> Path:
        """The run directory of a run."""
        return self.directory / RUNS_FOLDER / run

    def entries(self) -> list[Entry]:
        """All runs, in the order of their submission."""
        with self._changed:
            return list(self._entries.values())

    def before(self, run: str) -> list[Entry]:
        """The runs that were submitted before one, in the order of their submission; all of them if it is empty.

        Raises:
            ConfigError: there is none of this name.
        """
        if not run:
            return self.entries()
        self.entry(run)
        return list(itertools.takewhile(lambda entry: entry.run != run, self.entries()))

    def counts(self) -> dict[str, int]:
        """How many runs there are in each state."""
        found = Counter(entry.state for entry in self.entries())
        return {state.value: found[state] for state in State}

    def entry(self, run: str) -> Entry:
        """One run.

        Raises:
            ConfigError: there is none of this name.
        """
        with self._changed:
            entry = self._entries.get(run)
            if entry is None:
                known = ", ".join(list(self._entries)[-5:]) or "none yet"
                raise ConfigError(f"run {run[:64]!a} does not exist, expected one of `plait runs` (the last: {known})")
            return entry

    def submit(
        self,
        config: Mapping[str, Scalar],
        *,
        by: str,
        number: int,
        priority: int = 0,
        cohort_labels: tuple[str, ...] = (),
        name: str = "",
    ) -> Entry:
        """Put a run into the queue.

        Args:
            cohort_labels: what its clients must state.
            name: of the run and its directory; by default the next of ``run-1``, ``run-2`` …

        Raises:
            ConfigError: the name is taken or no name, the queue is full, or the operator has submitted too many.
            MachineError: the journal cannot be written; nothing is queued.
        """
        with self._changed:
            if name and not _NAME.fullmatch(name):
                raise ConfigError(
                    f"run name is {name[:80]!a}, expected letters, digits, '_' and '-', at most 64, no '-' in front"
                )
            if taken := self._entries.get(name):
                raise ConfigError(f"run '{name}' exists already, {taken.by} submitted it; give another name")
            if name and self.folder(name).exists():
                raise ConfigError(f"'{self.folder(name)}' exists already, give another name")
            self._check_number(by)
            run = name or self._next_name()
            self._journal.append(
                RunSubmitted(
                    run=run,
                    by=by,
                    number=number,
                    config=dict(config),
                    priority=priority,
                    cohort_labels=cohort_labels,
                )
            )
            return self._entries[run]

    def running(self) -> Entry | None:
        """The run that is being served, or was when the server ended."""
        return next((entry for entry in self.entries() if entry.state is State.RUNNING), None)

    def begin_next(self, *, wait_s: float) -> Entry | None:
        """The next run to serve: the most urgent, and the oldest of these.

        Returns:
            The run, which is running from now on; None if there is none.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._next() is not None, wait_s):
                return None
            entry = self._next()
            if entry is None:
                return None
            self._journal.append(RunBegun(run=entry.run))
            return self._entries[entry.run]

    def end(self, run: str, outcome: Outcome, detail: str = "") -> None:
        """A run ended by itself; nothing changes if it was cancelled meanwhile."""
        with self._changed:
            if self._entries[run].state is State.RUNNING:
                self._journal.append(RunEnded(run=run, outcome=outcome, detail=detail))

    def cancel(self, run: str, *, by: str) -> State:
        """Cancel a run; returns the state that it was in.

        Raises:
            ConfigError: there is no such run, or it is over.
        """
        with self._changed:
            entry = self.entry(run)
            if entry.is_over:
                raise ConfigError(f"run '{run}' is over ({_over(entry)}), expected one that is queued or running")
            self._journal.append(RunCancelled(run=run, by=by))
            return entry.state

    def _check_number(self, by: str) -> None:
        """Refuse one run too many of an operator."""
        waiting = [entry.by for entry in self._entries.values() if entry.state is State.QUEUED]
        if len(waiting) >= MOST_QUEUED:
            raise ConfigError(f"queue is full: {len(waiting)} runs wait, expected fewer than {MOST_QUEUED}; cancel one")
        if (own := waiting.count(by)) >= MOST_QUEUED_OF_ONE:
            raise ConfigError(
                f"queue has {own} runs of {by}, expected fewer than {MOST_QUEUED_OF_ONE} of one operator; cancel one"
            )
        since = self._clock() - SUBMITTED_WITHIN_S
        submitted = [entry.submitted for entry in self._entries.values() if entry.by == by and entry.submitted > since]
        if len(submitted) >= MOST_SUBMITTED:
            raise ConfigError(
                f"{by} has submitted {len(submitted)} runs within 24 hours, expected fewer than {MOST_SUBMITTED}; the "
                f"next one in {(submitted[-MOST_SUBMITTED] - since) / 60:.0f} minutes"
            )

    def _next(self) -> Entry | None:
        queued = [entry for entry in self._entries.values() if entry.state is State.QUEUED]
        # `max` gives the first of equals: the oldest.
        return max(queued, key=lambda entry: entry.priority, default=None)

    def _next_name(self) -> str:
        number = len(self._entries) + 1
        while f"run-{number}" in self._entries or self.folder(f"run-{number}").exists():
            number += 1
        return f"run-{number}"

    def _apply(self, act: Event) -> None:
        """A line was written."""
        _apply(self._entries, act)
        self._changed.notify_all()


def _shortened(value: Json) -> Json:
    return value[:_MOST_SHOWN] if isinstance(value, str) else value


def _over(entry: Entry) -> str:
    return f"{entry.state}: {entry.detail}" if entry.detail else entry.state.value


def _replayed(lines: Iterable[Line]) -> list[Entry]:
    entries: dict[str, Entry] = {}
    for line in lines:
        act = parse_act(line)
        if act is not None:
            _apply(entries, act)
    return list(entries.values())


def _apply(entries: dict[str, Entry], act: Event) -> None:
    if isinstance(act, RunSubmitted):
        entries[act.run] = Entry(
            run=act.run,
            number=act.number,
            by=act.by,
            config=act.config,
            priority=act.priority,
            cohort_labels=act.cohort_labels,
            submitted=act.time,
        )
        return
    match act:
        case RunBegun() if act.run in entries:
            entries[act.run] = replace(entries[act.run], state=State.RUNNING, begun=act.time)
        case RunCancelled() if act.run in entries:
            entries[act.run] = replace(
                entries[act.run], state=State.CANCELLED, ended=act.time, detail=f"cancelled by {act.by}"
            )
        case RunEnded() if act.run in entries:
            entries[act.run] = replace(
                entries[act.run], state=State(act.outcome.value), ended=act.time, detail=act.detail
            )
        case _:
            pass

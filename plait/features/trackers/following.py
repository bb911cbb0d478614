"""The trackers of a run, each in a thread that reads the ledger as it grows; none of them changes the run.

One that fails, or does not finish, is named at the end of the run; the run itself neither waits for it nor notices.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from plait.choice import parse_choice, split_choices, with_options
from plait.config import RunConfig
from plait.errors import ConfigError, did_you_mean
from plait.features.trackers.series import Series
from plait.features.trackers.tracker import LIBRARIES, Begun, TrackedRun
from plait.files import make_private_directory
from plait.own_code import instance_of, place_of
from plait.plugins import Kind, find, is_named
from plait.progress import say
from plait.rounds.events import RunStarted
from plait.rounds.ledger import Follower
from plait.rounds.run_directory import RunDirectory
from plait.settings.tables import Trackers
from plait.text import printable

GRACE_S = 30.0
"""How long the trackers of a run may take to finish once it is over."""
_PAUSE_S = 0.5


def check(settings: RunConfig) -> None:
    """Refuse an unknown tracker and one whose library is missing.

    Raises:
        ConfigError: one of them; says what to install.
    """
    for text in _names(settings):
        name, options = parse_choice(text)
        if name not in LIBRARIES:
            if not is_named(Kind.TRACKER, name):
                raise ConfigError(
                    f"report-to is '{name}', expected none, {', '.join(LIBRARIES)}, or MODULE:CLASS of your own"
                    f"{did_you_mean(name, LIBRARIES)}"
                )
        elif options:
            raise ConfigError(f"report-to is '{text}', but {name} has no options; it reads its own settings")
        elif importlib.util.find_spec(name) is None:
            raise ConfigError(f"report-to is '{name}', but the package is not installed; pip install {name}")


@contextmanager
def beside(settings: RunConfig, run: Path, quiet: bool) -> Generator[None]:
    """The trackers of a run follow it while the block runs; the run continues even if they fail."""
    following = [_Following(run, name) for name in _names(settings)]
    for each in following:
        each.start()
    try:
        yield
    finally:
        end = time.monotonic() + GRACE_S
        for each in following:
            each.over.set()
        for each in following:
            each.join(max(0.0, end - time.monotonic()))
            failure = f"did not finish within {GRACE_S:g} s" if each.is_alive() else each.failure
            if failure:
                say(f"tracker {each.tracker} {failure}", quiet=quiet)


def _names(settings: RunConfig) -> tuple[str, ...]:
    named = settings.report_to if isinstance(settings, Trackers) else ""
    return tuple(name for name in split_choices(named) if name.lower() != "none")


class _Following(threading.Thread):
    """One tracker at work.

    Attributes:
        over: set once the run is over.
        failure: what went wrong, in a line; empty if nothing did.
    """

    def __init__(self, run: Path, tracker: str) -> None:
        super().__init__(name=f"plait-tracker-{tracker}", daemon=True)
        self.tracker, self.over, self.failure = tracker, threading.Event(), ""
        self._run, self._follower = run, Follower(run / "ledger.jsonl")
        # What is there already the tracker had before the run was stopped.
        self._before = self._follower.new_events()

    def run(self) -> None:
        """Hand the run to the tracker, until its end."""
        try:
            self._track()
        except BaseException as error:  # a library may even exit
            said = printable(f"{type(error).__name__}: {error}", limit=300)
            self.failure = f"failed: {said}{place_of(error)}"

    def _track(self) -> None:
        start, begun, series, is_over = _starting(self.tracker), None, Series(), False
        for event in self._before:
            series.of(event)
        events = [event for event in self._before if isinstance(event, RunStarted)]  # begins the tracker
        while not is_over:
            is_over = self.over.is_set()
            for event in (*events, *self._follower.new_events()):
                figures = series.of(event)
                if isinstance(event, RunStarted):
                    folder = RunDirectory(self._run).trackers / re.sub(r"[^A-Za-z0-9_.-]+", ".", self.tracker)
                    make_private_directory(folder)
                    name = self._run.resolve().name
                    begun = start(TrackedRun(name, event.run, event.config, folder, bool(self._before)))
                elif begun and figures:
                    begun[0](figures[1], figures[0])
            events = []
            if not is_over:
                self.over.wait(_PAUSE_S)
        if begun:
            files = [file for name in ("report.html", "summary.json") if (file := self._run / name).exists()]
            begun[1]([*files, *sorted(self._run.glob("*.png"))])


def _starting(text: str) -> Callable[[TrackedRun], Begun]:
    """What begins a tracker of a name: one of `LIBRARIES`, or a user's own, with its options."""
    name, options = parse_choice(text)
    if name in LIBRARIES:
        return LIBRARIES[name]
    what, part = f"tracker '{name}'", find(Kind.TRACKER, name)
    made = part() if inspect.isfunction(part) else instance_of(part, what=what)
    tracker: Any = with_options(made, options, what=what)

    def start(run: TrackedRun) -> Begun:
        tracker.start(run)
        return tracker.log, tracker.finish

    return start

"""One tracker, in a process of its own: reads the ledger as it grows and hands its figures on.

``python -m plait.features.trackers.process RUN NAME live|again``. It ends when its standard input does, that is when
the run is over or the process of the run is gone, however that ended.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from plait.child import when_over
from plait.choice import parse_choice, with_options
from plait.errors import PlaitError
from plait.features.trackers.accelerated import KINDS, AcceleratedTracker
from plait.features.trackers.series import Series
from plait.features.trackers.tracker import TrackedRun, Tracker, file_name
from plait.files import read_if_there, write_atomically
from plait.own_code import instance_of
from plait.plugins import Kind as PluginKind
from plait.plugins import admit, find
from plait.report.tables import report_tables
from plait.rounds.events import RunStarted
from plait.rounds.ledger import Follower, read_events
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_view import RunView

_PAUSE_S = 0.5
# A tracker that hangs after its run must not stay for ever.
_MOST_AFTER_S = 900.0


def tracker_named(text: str) -> Tracker:
    """A tracker by its name: one of `KINDS`, or a user's own, with its options.

    Raises:
        ConfigError: there is none, it cannot be imported, or an option is wrong.
    """
    name, options = parse_choice(text)
    if kind := KINDS.get(name):
        return AcceleratedTracker(kind)
    what = f"tracker '{name}'"
    part = find(PluginKind.TRACKER, name, known=KINDS)
    made = part() if inspect.isfunction(part) else instance_of(part, what=what)
    return cast("Tracker", with_options(made, options, what=what))


@dataclass
class _Sent:
    """How much of a ledger a tracker has, so that it continues there when the run is resumed."""

    path: Path
    events: int = 0
    memory: str = ""

    def load(self) -> None:
        try:
            kept = json.loads(read_if_there(self.path) or b"{}")
            self.events, self.memory = int(kept.get("events", 0)), str(kept.get("memory", ""))
        except (ValueError, TypeError, AttributeError):
            pass

    def save(self) -> None:
        write_atomically(self.path, json.dumps({"events": self.events, "memory": self.memory}).encode())


def track(run: Path, name: str, tracker: Tracker, over: threading.Event, *, again: bool) -> None:
    """Hand a run to a tracker, from where it was stopped (or from the start, `again`) to the end."""
    directory = RunDirectory(run)
    folder = directory.trackers
    sent = _Sent(folder / f"{file_name(name)}.json")
    if not again:
        sent.load()
    follower, series, begun = Follower(directory.ledger), Series(), False
    read = 0
    while True:
        was_over = over.is_set()
        for event in follower.new_events():
            read += 1
            if isinstance(event, RunStarted):
                place = folder / file_name(name)
                place.mkdir(exist_ok=True)
                sent.memory = tracker.start(TrackedRun(run.resolve().name, event.config, place, sent.memory)) or ""
                begun = True
            figures = series.of(event)
            if begun and figures and read > sent.events:
                tracker.log(figures[1], figures[0])
        if begun and read > sent.events:
            sent.events = read
            sent.save()
        if was_over:
            break
        over.wait(_PAUSE_S)
    if begun:
        view = RunView.of(read_events(directory.ledger))
        files = [file for file in (run / "report.html", run / "summary.json") if file.exists()]
        tracker.report(list(report_tables(view)), [*files, *sorted(run.glob("*.png"))])
        tracker.finish()


def _main() -> None:
    run, name, mode = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    over = threading.Event()

    def end() -> None:
        over.set()
        timer = threading.Timer(_MOST_AFTER_S, os._exit, (1,))
        timer.daemon = True
        timer.start()

    when_over(end)
    # The operator named it on the command line of the run.
    admit(name)
    try:
        track(run, name, tracker_named(name), over, again=mode == "again")
    except PlaitError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    _main()

"""Alerts beside a server, in a process of its own: it follows journal and ledgers, and no run waits for it.

``python -m plait.alerts.beside PLACE run|folder FILE SINCE LINE``. When the server is over or gone
(`plait.page.process`), it looks a last time, tells what is left, and ends within a minute.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from plait.errors import PlaitError
from plait.text import printable

if TYPE_CHECKING:
    from plait.adapters import Json
    from plait.alerts.rules import Rule
    from plait.page.line import Desk, Line
    from plait.rounds.ledger import Follower

_LOOK_EVERY_S = 1.0
_AWAY_EVERY_S = 15.0
_LAST_S = 60.0
_MOST_CHARACTERS = 300


@contextlib.contextmanager
def alerts_beside(place: Path, file: Path | None, *, folder: bool, desk: Desk) -> Generator[None]:
    """Tell alerts as long as the block runs.

    Args:
        place: the run's directory, or the federation's.
        file: of the alerts; None for none.
        folder: whether `place` is a federation's.
        desk: knows which clients are away.

    Raises:
        ConfigError: the file is missing, malformed or has an impossible rule.
        MachineError: it cannot be read.
    """
    if file is None:
        yield
        return
    from plait.alerts.rules import load_rules
    from plait.page.process import process_beside

    load_rules(file)
    # It ends by itself, within a minute; whoever waits for the server does not wait for a webhook.
    with process_beside(
        "plait.alerts.beside",
        str(place.absolute()),
        "folder" if folder else "run",
        str(file.absolute()),
        str(time.time()),
        desk=desk,
        patience_s=2,
        is_killed=False,
    ):
        yield


class Following:
    """What the rules are told of: one look at a time.

    Args:
        place: the run's directory, or the federation's.
        folder: whether it is a federation's.
        rules: of the operator.
        since: nothing earlier is told, in seconds since 1970.
        line: to the server; None for none.
    """

    def __init__(self, place: Path, *, folder: bool, rules: Sequence[Rule], since: float, line: Line | None) -> None:
        from plait.alerts.teller import Teller
        from plait.alerts.watcher import Watcher

        self._place = place
        self._folder = folder
        self._line = line
        self._rules = [(Watcher(rule, since=since), Teller(rule, complain=complain)) for rule in rules]
        self._stamp: tuple[int, int] = (0, 0)
        self._run = ""
        self._ledger: Path | None = None
        self._follower: Follower | None = None
        self._asked = float("-inf")

    def look(self) -> None:
        """Tell what is new."""
        if self._folder:
            self._look_at_queue()
        else:
            self._look_at_ledger(self._place)
        if self._line is not None and time.monotonic() - self._asked >= _AWAY_EVERY_S:
            self._asked = time.monotonic()
            away = _away(self._line.status())
            for watcher, teller in self._rules:
                for alert in watcher.of_away(away):
                    teller.put(alert)

    def end(self) -> None:
        """Look a last time, and tell what is left."""
        from plait.rounds.ledger import read_events
        from plait.rounds.recorded import is_finished
        from plait.rounds.run_directory import RunDirectory

        self._line = None
        with contextlib.suppress(PlaitError):
            self.look()
        directory = RunDirectory(self._place)
        if not self._folder and directory.has_started and not is_finished(read_events(directory.ledger)):
            for watcher, teller in self._rules:
                for alert in watcher.interrupted(self._place.name):
                    teller.put(alert)
        end = time.monotonic() + _LAST_S
        for _, teller in self._rules:
            teller.close(max(0.0, end - time.monotonic()))

    def _look_at_queue(self) -> None:
        from plait.queue import JOURNAL_FILE, State, read_queue

        try:
            found = (self._place / JOURNAL_FILE).stat()
        except OSError:
            return
        if self._stamp != (stamp := (found.st_ino, found.st_size)):
            entries = read_queue(self._place)
            running = next((entry.run for entry in entries if entry.state is State.RUNNING), "")
            # Before its end is told, all that came before it.
            if self._run:
                self._look_at_ledger(self._place / "runs" / self._run)
            for watcher, teller in self._rules:
                for alert in watcher.of_queue(entries):
                    teller.put(alert)
            self._run, self._stamp = running, stamp
        if self._run:
            self._look_at_ledger(self._place / "runs" / self._run)

    def _look_at_ledger(self, place: Path) -> None:
        from plait.rounds.ledger import Follower
        from plait.rounds.run_directory import RunDirectory

        ledger = RunDirectory(place).ledger
        if self._follower is None or self._ledger != ledger:
            self._ledger, self._follower = ledger, Follower(ledger)
        for event in self._follower.new_events():
            for watcher, teller in self._rules:
                for alert in watcher.of_event(place.name, event, is_queued=self._folder):
                    teller.put(alert)


def complain(text: str) -> None:
    """Say a line on stderr."""
    sys.stderr.write(f"{printable(text, limit=_MOST_CHARACTERS)}\n")
    sys.stderr.flush()


def _away(status: dict[str, Json]) -> dict[str, float]:
    nodes = status.get("nodes_away")
    away: dict[str, float] = {}
    for node in nodes if isinstance(nodes, list) else []:
        if isinstance(node, dict) and isinstance(seconds := node.get("away_s"), int | float):
            away[printable(str(node.get("name")), limit=100)] = seconds
    return away


def main() -> None:
    """Follow until standard input ends."""
    from plait.alerts.rules import load_rules
    from plait.page.process import line_of, when_over

    _, place, kind, file, since, line = sys.argv
    over = threading.Event()
    when_over(over.set)
    following = Following(
        Path(place), folder=kind == "folder", rules=load_rules(Path(file)), since=float(since), line=line_of(line)
    )
    said = ""
    while not over.wait(_LOOK_EVERY_S):
        try:
            following.look()
            said = ""
        except PlaitError as error:
            if str(error) != said:
                complain(f"alerts: {error}")
            said = str(error)
    following.end()


if __name__ == "__main__":
    main()

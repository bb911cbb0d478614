"""A run's ledger on disk, written as a run writes it, and trackers of a user's own that behave or do not."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from plait.rounds.events import parse_event
from plait.rounds.ledger import Ledger

Write = Callable[[Sequence[dict[str, object]]], None]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of a run; the trackers' modules are beside it."""
    (tmp_path / "runs" / "first").mkdir(parents=True)
    (tmp_path / "mine.py").write_text(textwrap.dedent(_MINE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OUT", str(tmp_path / "got.jsonl"))
    return Path("runs/first")


@pytest.fixture
def write(run: Path) -> Write:
    """Appends events to the run's ledger."""

    def append(events: Sequence[dict[str, object]]) -> None:
        ledger = Ledger(run / "ledger.jsonl")
        for event in events:
            ledger.append(parse_event(event))
        ledger.close()

    return append


@pytest.fixture
def got(tmp_path: Path) -> Callable[[], list[list[object]]]:
    """What `mine:Good` was called with."""
    return lambda: [json.loads(line) for line in (tmp_path / "got.jsonl").read_text().splitlines()]


_MINE = """
    import json, os, signal, sys, time

    class Good:
        def _note(self, *what):
            with open(os.environ["OUT"], "a") as file:
                file.write(json.dumps(what) + "\\n")
        def start(self, run):
            self._note("start", run.name, run.memory, run.config["rank"])
            return "remembered"
        def log(self, values, step):
            self._note("log", step, values)
        def report(self, tables, files):
            self._note("report", len(tables), [file.name for file in files])
        def finish(self):
            self._note("finish")

    class RaisesAtStart(Good):
        def start(self, run):
            raise RuntimeError("no such project")

    class RaisesInLog(Good):
        def log(self, values, step):
            raise ConnectionError("gone")

    class Hangs(Good):
        def log(self, values, step):
            time.sleep(1000)

    class HangsAtTheEnd(Good):
        def _note(self, *what):
            pass
        def finish(self):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(1000)

    class Exits(Good):
        def log(self, values, step):
            os._exit(7)

    class IsKilled(Good):
        def log(self, values, step):
            os.kill(os.getpid(), signal.SIGKILL)

    def fails_to_be_made():
        raise ValueError("nobody can have it")
"""

"""A run's ledger on disk, written as a run writes it, and what follows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from plait.config import config_from_table
from plait.features.trackers.following import beside
from plait.plugins import admit
from plait.rounds.events import parse_event
from plait.rounds.ledger import Ledger


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of a run, from the working directory."""
    (tmp_path / "runs" / "first").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return Path("runs/first")


@pytest.fixture
def write(run: Path) -> Callable[[Sequence[dict[str, object]]], None]:
    """Appends events to the run's ledger."""

    def append(events: Sequence[dict[str, object]]) -> None:
        ledger = Ledger(run / "ledger.jsonl")
        for event in events:
            ledger.append(parse_event(event))
        ledger.close()

    return append


@pytest.fixture
def followed(run: Path) -> Callable[[str], AbstractContextManager[None]]:
    """The run with these trackers, which its operator named."""

    def following(report_to: str) -> AbstractContextManager[None]:
        admit(*report_to.split(","))
        return beside(config_from_table({"report-to": report_to}), run, quiet=False)

    return following

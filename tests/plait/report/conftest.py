from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from plait.ledger.events import parse_event
from tests.plait.conftest import recorded


@pytest.fixture(scope="module", autouse=True)
def _plots() -> None:
    """Plots are rendered."""


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
        recorded(run / "ledger.jsonl", map(parse_event, events))

    return append

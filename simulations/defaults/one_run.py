"""One run of an experiment in this process, which loads data and base once for all of its runs."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from corpora import CORPORA

from plait.api.settings import run_config_of
from plait.rounds.ledger import read_events
from plait.rounds.run_view import RunView
from plait.simulation.execution import begin, execute, prepare
from plait.simulation.loaded import Loaded

CLIENTS = {"news": 5, "austen": 6}
"""Where a corpus has fewer than eight."""

Table = Mapping[str, object]


def run_once(settings: Table, loaded: Loaded) -> RunView:
    """The record of a run with these settings.

    Raises:
        PlaitError: the reason that it stopped.
    """
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "run"
        run, data = prepare(run_config_of({**settings, "out": str(path)}), quiet=True, loaded=loaded)
        execute(run, data, begin(run, quiet=True), quiet=True, loaded=loaded)
        return RunView.of(read_events(path / "ledger.jsonl"))


def settings_of(corpus: str, directory: Path, *, held_out: int) -> dict[str, object]:
    """Data, base, partition and clients of a corpus, where `corpora.py` wrote it.

    Args:
        corpus: its name.
        directory: where it lies.
        held_out: sequences per client; of classes, where each has one label, plait's default number.
    """
    about = CORPORA[corpus]
    return {
        "data": str(directory / f"{corpus}.jsonl"),
        "base": about.base,
        "partition": about.partition or f"natural:{about.column}",
        "clients": CLIENTS.get(corpus, 8),
        "max_held_out_sequences": 0 if about.column == "label" else held_out,
    }


def rows_of(path: Path) -> list[dict[str, object]]:
    """The rows of a file of results; none if there is no such file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def losses_of(view: RunView) -> list[float]:
    """The shared adapter's held-out loss after every evaluation, the base's first."""
    return [round(evaluation.loss, 4) for _, evaluation in sorted(view.evaluations.items())]


def append(path: Path, row: Table) -> None:
    """Add a row to a file of results, and show it."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)

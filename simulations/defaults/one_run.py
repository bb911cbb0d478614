"""Settings and results of the runs of an experiment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from corpora import CORPORA

from plait.ledger.run_view import RunView

CLIENTS = {"news": 5, "austen": 6}
"""Where a corpus has fewer than eight."""

Table = Mapping[str, object]


def settings_of(corpus: str, directory: Path) -> dict[str, object]:
    """Data, base, partition and clients of a corpus, where `corpora.py` wrote it."""
    about = CORPORA[corpus]
    return {
        "data": str(directory / f"{corpus}.jsonl"),
        "base": about.base,
        "partition": about.partition or f"natural:{about.column}",
        "clients": CLIENTS.get(corpus, 8),
        # Of classes, where each has one label, plait's default number.
        "max_held_out_sequences": 0 if about.column == "label" else 8,
        "judge_part": 0,
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

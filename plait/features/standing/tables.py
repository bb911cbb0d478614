"""The runs and clients of a standing server as tables. They came over a network: nothing in them is trusted."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import cast

from plait.report.table import Table
from plait.report.wording import clean

_MOST_CHARACTERS = 200


def queue_tables(said: Mapping[str, object]) -> list[Table]:
    """The runs in the order of their submission, why those failed that did, and the labels of the clients."""
    runs = _objects(said, "runs")
    rows = tuple(
        (
            _text(run, "run"),
            _state(run),
            _text(run, "by"),
            _text(run, "priority"),
            _moment(run.get("submitted")),
            _text(run, "base"),
            _text(run, "method"),
            _text(run, "rule"),
            _labels(run, "cohort_labels"),
        )
        for run in runs
    )
    headings = ("run", "state", "by", "priority", "submitted", "base", "method", "rule", "labels")
    tables = [Table("Runs", headings, rows, text_columns=(0, 1, 2, 4, 5, 6, 7, 8))]
    if details := tuple((_text(run, "run"), _text(run, "detail")) for run in runs if run.get("detail")):
        tables.append(Table("Not finished", ("run", "reason"), details, text_columns=(0, 1)))
    if clients := tuple((_text(each, "name"), _labels(each, "labels")) for each in _objects(said, "clients")):
        tables.append(Table("Clients", ("client", "labels"), clients, text_columns=(0, 1)))
    return tables


def _state(run: Mapping[str, object]) -> str:
    return f"round {_text(run, 'round')} of {_text(run, 'rounds')}" if run.get("round") else _text(run, "state")


def _labels(entry: Mapping[str, object], key: str) -> str:
    value = entry.get(key)
    labels = cast("list[object]", value) if isinstance(value, list) else []
    return ", ".join(clean(str(label))[:_MOST_CHARACTERS] for label in labels)


def _text(entry: Mapping[str, object], key: str) -> str:
    value = entry.get(key)
    return clean(str(value))[:_MOST_CHARACTERS] if isinstance(value, str | int) else ""


def _moment(value: object) -> str:
    try:
        return f"{datetime.fromtimestamp(value):%Y-%m-%d %H:%M}" if isinstance(value, int | float) else ""
    except (ValueError, OverflowError, OSError):
        return ""


def _objects(said: Mapping[str, object], key: str) -> list[Mapping[str, object]]:
    value = said.get(key)
    entries = cast("list[object]", value) if isinstance(value, list) else []
    return [cast("Mapping[str, object]", entry) for entry in entries if isinstance(entry, dict)]

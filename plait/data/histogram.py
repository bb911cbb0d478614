"""Counts of a client's records by label or by a topic-like column, for the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from plait.data.records import Dataset, Record, RecordKind
from plait.text import printable

_MAX_NAMES = 32
_MAX_CHARACTERS = 40
OTHER = "(other)"
EMPTY = "(empty)"


def histogram(records: Iterable[Record], dataset: Dataset, *, besides: str = "") -> dict[str, int]:
    """Count records by label, or else by the column with the fewest distinct values.

    Args:
        dataset: all records; they determine the column, so that all clients are counted alike.
        besides: a column that says nothing new (each client has one value of it); used only if there is no other.

    Returns:
        Count by name, most frequent first; at most 32 names, the rest under ``(other)``, each on one line and of at
            most 40 characters. Empty if nothing can be counted.
    """
    column = "label" if dataset.kind is RecordKind.LABEL else _topic_column(dataset, besides)
    if not column:
        return {}
    counts = Counter(
        _short(record.label if dataset.kind is RecordKind.LABEL else record.columns.get(column, OTHER))
        for record in records
    )
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    result = dict(ordered[:_MAX_NAMES])
    if rest := sum(count for _, count in ordered[_MAX_NAMES:]):
        result[OTHER] = result.get(OTHER, 0) + rest
    return result


def _short(name: str) -> str:
    return printable(name, limit=_MAX_CHARACTERS) or EMPTY


def _topic_column(dataset: Dataset, besides: str) -> str:
    distinct = {name: len(set(dataset.column(name))) for name in dataset.column_names}
    # A column with a different value in nearly every record (a path, a date) counts nothing.
    telling = [name for name, count in distinct.items() if count <= max(1, len(dataset.records) // 2)]
    return min(telling, key=lambda name: (name == besides, distinct[name], name), default="")

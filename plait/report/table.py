"""A table of plain text cells; `terminal` and `html` show it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

from plait.ledger.run_now import StatusSection

T = TypeVar("T")


@dataclass(frozen=True)
class Table:
    """Rows of text under headings; the first column names the row, all others hold numbers by default."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]  # as many cells as there are headings
    note: str = ""  # a line under the table, or nothing
    text_columns: tuple[int, ...] = (0,)  # indices of columns with words, which are left-aligned
    code_columns: tuple[int, ...] = ()  # those of them whose lines are kept

    @classmethod
    def of_columns(cls, title: str, rows: Iterable[Mapping[str, str]], *, note: str = "") -> Self:
        """A table of rows that each have all cells by their headings, in the order of columns."""
        there = list(rows)
        return cls(title, tuple(there[0] if there else ()), tuple(tuple(row.values()) for row in there), note)


def thinned(items: Sequence[T], most: int) -> Sequence[T]:
    """At most `most` of the items, evenly spaced, including the first and the last."""
    if len(items) <= most:
        return items
    return [items[round(index * (len(items) - 1) / (most - 1))] for index in range(most)]


def shown_of(shown: int, there: int, which: str) -> str:
    """How many of all are shown; empty if all are."""
    return f"{shown:,} of {there:,} {which}." if shown < there else ""


def card_table(card: StatusSection) -> Table:
    """What privacy or masks promise and have done, fact by fact."""
    return Table(title=card.title, headings=("", ""), rows=card.facts, note=card.warning, text_columns=(0, 1))

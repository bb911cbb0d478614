"""A table of plain text cells; `rich_table` shows it on a terminal, `html` on a page."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Rows of text under headings; the first column names the row, all others hold numbers by default.

    Attributes:
        rows: as many cells as there are headings.
        note: a line under the table, or nothing.
        text_columns: indices of columns with words, which are left-aligned.
    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    text_columns: tuple[int, ...] = (0,)

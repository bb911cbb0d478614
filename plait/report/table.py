"""A table as plain text cells, and how a terminal shows it; `html` shows the same table on a page."""

from __future__ import annotations

from dataclasses import dataclass

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from plait.report.wording import clean

# A text column never gets narrower than this to make room for numbers, unless its cells are.
_NARROWEST_TEXT = 16
_LONGEST_HEADING = 12


@dataclass(frozen=True)
class Table:
    """Rows of text under headings; the first column names the row, all others hold numbers unless said otherwise.

    Attributes:
        title: one line.
        headings: one for each column.
        rows: as many cells as there are headings.
        note: a line under the table, or nothing.
        text_columns: columns (by index) that hold words, so that they are set left.
    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    text_columns: tuple[int, ...] = (0,)


def to_rich(table: Table) -> RichTable:
    """The table for a terminal. No cell is read as rich markup, and control characters are taken out."""
    shown = RichTable(
        title=Text(clean(table.title), style="bold"),
        caption=Text(clean(table.note, limit=1000)) if table.note else None,
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for index, heading in enumerate(table.headings):
        is_text = index in table.text_columns
        longest = max((len(clean(row[index])) for row in table.rows), default=0)
        shown.add_column(
            Text(_in_two_lines(clean(heading))),
            justify="left" if is_text else "right",
            overflow="fold",
            no_wrap=not is_text,
            min_width=min(longest, _NARROWEST_TEXT) if is_text else None,
        )
    for row in table.rows:
        shown.add_row(*(Text(clean(cell)) for cell in row))
    return shown


def _in_two_lines(heading: str) -> str:
    """A long heading broken near its middle, so that a table fits into 80 columns."""
    spaces = [index for index, character in enumerate(heading) if character == " "]
    if len(heading) <= _LONGEST_HEADING or not spaces:
        return heading
    middle = min(spaces, key=lambda index: abs(index - len(heading) / 2))
    return f"{heading[:middle]}\n{heading[middle + 1 :]}"

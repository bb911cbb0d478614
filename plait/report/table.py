"""A table of plain text cells, and how a terminal shows it; `html` shows it on a page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeVar

from plait.report.wording import clean

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderResult
    from rich.table import Table as RichTable

# A text column is never narrower than this to make room for numbers, unless its cells are.
_NARROWEST_TEXT = 16
_LONGEST_HEADING = 12
_ANY_WIDTH = 1 << 20


T = TypeVar("T")


@dataclass(frozen=True)
class Table:
    """Rows of text under headings; the first column names the row, all others hold numbers by default."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]  # as many cells as there are headings
    note: str = ""  # a line under the table, or nothing
    text_columns: tuple[int, ...] = (0,)  # indices of columns with words, which are left-aligned

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


def to_rich(table: Table) -> ConsoleRenderable:
    """The table for a terminal. No cell is parsed as rich markup, and control characters are removed.

    If a terminal is too narrow for all columns, the rest follow below, again with the first column.
    """
    return _Shown(table)


@dataclass(frozen=True)
class _Shown:
    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        # A measurement stays within the given width.
        unbounded = options.update(max_width=_ANY_WIDTH)
        parts = _parts(self.table, lambda part: part.__rich_measure__(console, unbounded).minimum <= options.max_width)
        for number, columns in enumerate(parts):
            part = _rich_table(self.table, columns)
            if number == 0:
                part.title = Text(clean(self.table.title), style="bold")
            yield part
        if self.table.note:
            yield Text(clean(self.table.note, limit=1000), style="table.caption")


def _parts(table: Table, fits: Callable[[RichTable], bool]) -> list[list[int]]:
    """Column indices of tables that fit; each starts with the column that names the rows."""
    parts = [[0]]
    for index in range(1, len(table.headings)):
        if len(parts[-1]) > 1 and not fits(_rich_table(table, [*parts[-1], index])):
            parts.append([0])
        parts[-1].append(index)
    return parts


def _rich_table(table: Table, columns: Sequence[int]) -> RichTable:
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, show_header=any(table.headings))
    for index in columns:
        is_text = index in table.text_columns
        heading = _in_two_lines(clean(table.headings[index]))
        longest = max(map(cell_len, (*heading.splitlines(), *(clean(row[index]) for row in table.rows))), default=0)
        shown.add_column(
            Text(heading),
            justify="left" if is_text else "right",
            overflow="fold",
            no_wrap=not is_text,
            min_width=min(longest, _NARROWEST_TEXT) if is_text else longest,
        )
    for row in table.rows:
        shown.add_row(*(Text(clean(row[index])) for index in columns))
    return shown


def _in_two_lines(heading: str) -> str:
    """A long heading broken near its middle, so that a table fits into 80 columns."""
    spaces = [index for index, character in enumerate(heading) if character == " "]
    if len(heading) <= _LONGEST_HEADING or not spaces:
        return heading
    middle = min(spaces, key=lambda index: abs(index - len(heading) / 2))
    return f"{heading[:middle]}\n{heading[middle + 1 :]}"

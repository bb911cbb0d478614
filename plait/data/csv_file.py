"""CSV and TSV with a line of column names. Every value is text; an empty cell is a missing value."""

from __future__ import annotations

import codecs
import csv
import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from plait.data.rows import MAX_ROW_BYTES, Row
from plait.errors import DataError

_DELIMITERS = ",;\t"


def csv_rows(file: BinaryIO, path: Path, *, delimiter: str = "") -> Iterator[Row]:
    """The rows of a file; blank lines are skipped.

    Args:
        file: its bytes, UTF-8.
        delimiter: between two values; by default that of ``,``, ``;`` and tab that is most often in the first line.

    Raises:
        DataError: a line (named) is not one of this table.
        OSError: the file cannot be read.
    """
    # Of the whole process, so never lowered.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW_BYTES))
    bounded = _Lines(file, path)
    lines = iter(bounded)
    first = next(lines, "")
    delimiter = delimiter or max(_DELIMITERS, key=first.count)
    reader = csv.reader(itertools.chain((first,), lines), delimiter=delimiter, strict=True)
    names: list[str] = []
    number = 1
    while True:
        place = f"line {number} of '{path}'"
        bounded.row_bytes = 0
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{place} is not CSV: {error}; fix that line or remove it") from error
        number = reader.line_num + 1
        if not values:
            continue
        if not names:
            names = _names(values, place)
            continue
        if len(values) != len(names):
            raise DataError(
                f"{place} has {len(values)} values, expected {len(names)} as in the first line; put values that have "
                f"{delimiter!r} or a line break in them in double quotes"
            )
        # pandas writes its index as a first column without a name.
        yield Row(place, {name: value or None for name, value in zip(names, values, strict=True) if name})


def _names(values: list[str], place: str) -> list[str]:
    names = [value.strip() for value in values]
    counts = Counter(names)
    for position, name in enumerate(names, start=1):
        if counts[name] > 1:
            raise DataError(f"{place} names column {name[:32]!a} twice, expected different names")
        if not name and position > 1:
            raise DataError(f"{place} has no name for column {position}, expected the names of all columns")
    return names


class _Lines:
    """The lines of a file, within a bound for each row, which may have several in its quotes.

    Attributes:
        row_bytes: of the row so far; its reader sets it to 0 where another begins.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self.row_bytes = 0

    def __iter__(self) -> Iterator[str]:
        number = 0
        while line := self._file.readline(MAX_ROW_BYTES + 1):
            number += 1
            self.row_bytes += len(line)
            place = f"line {number} of '{self._path}'"
            if len(line) > MAX_ROW_BYTES:
                raise DataError(f"{place} is too long, expected at most {MAX_ROW_BYTES} bytes")
            if self.row_bytes > MAX_ROW_BYTES:
                raise csv.Error(f"its row is longer than {MAX_ROW_BYTES} bytes")
            try:
                yield line.removeprefix(codecs.BOM_UTF8 if number == 1 else b"").decode("utf-8")
            except UnicodeDecodeError as error:
                wrong = f"byte {error.start + 1} is 0x{error.object[error.start]:02x}"
                raise DataError(f"{place} is not UTF-8: {wrong}; save the file as UTF-8") from error

"""JSON, JSON lines, CSV and TSV.

A JSON document is an array of objects, or an object with one list of them, or JSON lines under that name. CSV has a
line of column names; every value is text, and an empty cell is a missing value.
"""

import codecs
import csv
import io
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from plait.data.bounds import memory_limit, most_batch_bytes
from plait.data.columns import shape_of
from plait.data.rows import MAX_ROW_BYTES, Row, RowError, kind_of
from plait.errors import DataError
from plait.system.text import read_json

MOST_BYTES = 1 << 30
"""The longest document."""


def json_rows(file: BinaryIO, path: Path) -> Iterator[Row]:
    """The objects of a document; DataError if it is not JSON, is too large, or is no list of objects."""
    data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise DataError(f"'{path}' has more than {MOST_BYTES:,} bytes; save it as JSON lines")
    if not data.strip():
        return
    document = _parsed(data, path)
    if document is None:
        yield from jsonl_rows(io.BytesIO(data), path)
        return
    del data
    document.reverse()
    number = 0
    while document:
        number += 1
        value, place = document.pop(), f"record {number} of '{path}'"
        if not isinstance(value, dict):
            raise RowError(f"is {kind_of(value)}, expected an object").at(place)
        yield Row(place, cast("dict[str, object]", value))


def _parsed(data: bytes, path: Path) -> list[object] | None:
    """The list of a document; None for JSON lines."""
    try:
        with memory_limit(most_batch_bytes()):
            found = read_json(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(
            f"byte {error.start + 1} of '{path}' is 0x{error.object[error.start]:02x}, expected UTF-8; save it as UTF-8"
        ) from error
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and _is_object(data[: data.find(b"\n") + 1]):
            return None
        raise DataError(f"line {error.lineno} of '{path}' is not JSON: {error.msg}") from error
    except MemoryError as error:
        raise DataError(
            f"'{path}' takes more than {most_batch_bytes():,} bytes of memory to read; save it as JSON lines"
        ) from error
    except ValueError as error:
        raise DataError(f"'{path}' is not readable JSON: a number is too long or the nesting too deep") from error
    if isinstance(found, list):
        return cast("list[object]", found)
    if not isinstance(found, dict):
        raise DataError(f"'{path}' is {kind_of(found)}, expected a list of objects")
    fields = cast("dict[str, object]", found)
    if shape_of(fields):
        return [fields]
    lists = {name: value for name, value in fields.items() if isinstance(value, list)}
    if len(lists) != 1:
        named = " and ".join(ascii(name[:32]) for name in list(lists)[:2])
        if lists:
            raise DataError(f"'{path}' has the lists {named}, expected one list of objects")
        raise DataError(f"'{path}' is an object without a list, expected a list of objects or an object with one")
    (only,) = lists.values()
    return cast("list[object]", only)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(read_json(line), dict)
    except ValueError:
        return False


def jsonl_rows(file: BinaryIO, path: Path) -> Iterator[Row]:
    """The objects of a file, a byte order mark and blank lines skipped; DataError for a line that is none."""
    for place, line in _lines(file, path):
        if line.strip():
            try:
                yield Row(place, _object(line))
            except RowError as error:
                raise error.at(place) from error.__cause__


def _lines(file: BinaryIO, path: Path) -> Iterator[tuple[str, bytes]]:
    """The lines of a file, each within a bound, with their places; without a byte order mark."""
    number = 0
    while line := file.readline(MAX_ROW_BYTES + 1):
        number += 1
        place = f"line {number} of '{path}'"
        if len(line) > MAX_ROW_BYTES:
            raise DataError(f"{place} is too long, expected at most {MAX_ROW_BYTES} bytes")
        yield place, line.removeprefix(codecs.BOM_UTF8 if number == 1 else b"")


def _object(line: bytes) -> dict[str, object]:
    try:
        value = read_json(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RowError(f"is not UTF-8: byte {error.start + 1} is 0x{line[error.start]:02x}") from error
    except json.JSONDecodeError as error:
        raise RowError(f"is not JSON: {error.msg} at column {error.colno}") from error
    except ValueError as error:
        raise RowError("is not readable JSON: a number is too long or the nesting too deep") from error
    if not isinstance(value, dict):
        raise RowError(f"is {kind_of(value)}, expected an object")
    return cast("dict[str, object]", value)


_DELIMITERS = ",;\t"


def csv_rows(file: BinaryIO, path: Path, *, delimiter: str = "") -> Iterator[Row]:
    """The rows of a file, blank lines skipped; DataError for a line that is not one of this table.

    Without a delimiter it is that of ``,``, ``;`` and tab that is most often in the first line.
    """
    # Of the whole process, so never lowered.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW_BYTES))
    bounded = _Text(_lines(file, path))
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
        if not name and position > 1:
            raise DataError(f"{place} has no name for column {position}; name it, or remove the line if it is a title")
        if name and counts[name] > 1:
            raise DataError(f"{place} names column {name[:32]!r} twice; rename one")
    return names


class _Text:
    """The text of a file's lines, within a bound for each row, which may have several in its quotes.

    `row_bytes` is the size of the row so far; its reader sets it to 0 where another begins.
    """

    def __init__(self, lines: Iterator[tuple[str, bytes]]) -> None:
        self._lines, self.row_bytes = lines, 0

    def __iter__(self) -> Iterator[str]:
        for place, line in self._lines:
            self.row_bytes += len(line)
            if self.row_bytes > MAX_ROW_BYTES:
                raise csv.Error(f"its row is longer than {MAX_ROW_BYTES} bytes")
            try:
                yield line.decode("utf-8")
            except UnicodeDecodeError as error:
                wrong = f"byte {error.start + 1} is 0x{error.object[error.start]:02x}"
                raise DataError(f"{place} is not UTF-8: {wrong}; save the file as UTF-8, such as by iconv") from error

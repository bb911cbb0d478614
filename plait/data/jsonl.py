"""JSON lines: one object per line. Errors name the file and the line, never the text."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from plait.data.rows import MAX_ROW_BYTES, Row, RowError, kind_of
from plait.errors import DataError


def jsonl_rows(file: BinaryIO, path: Path, *, max_line_bytes: int = MAX_ROW_BYTES) -> Iterator[Row]:
    """The objects of a file; a byte order mark and blank lines are skipped.

    Args:
        file: its bytes.

    Raises:
        DataError: a line (named) is not a JSON object.
        OSError: the file cannot be read.
    """
    number = 0
    while line := file.readline(max_line_bytes + 1):
        number += 1
        if len(line) > max_line_bytes:
            raise DataError(f"line {number} of '{path}' is too long, expected at most {max_line_bytes} bytes")
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if line.strip():
            place = f"line {number} of '{path}'"
            try:
                yield Row(place, _object(line))
            except RowError as error:
                raise error.at(place) from error.__cause__


def _object(line: bytes) -> dict[str, object]:
    try:
        value = cast("object", json.loads(line.decode("utf-8")))
    except UnicodeDecodeError as error:
        raise RowError(f"is not UTF-8: byte {error.start + 1} is 0x{line[error.start]:02x}") from error
    except json.JSONDecodeError as error:
        raise RowError(f"is not JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise RowError("is not readable JSON: a number is too long or the nesting too deep") from error
    if not isinstance(value, dict):
        raise RowError(f"is {kind_of(value)}, expected an object")
    return cast("dict[str, object]", value)

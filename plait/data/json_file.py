"""JSON: an array of objects, or an object with one list of them; or JSON lines under that name.

Read object by object, so that memory holds one of them at a time.
"""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from plait.data.columns import shape_of
from plait.data.jsonl import jsonl_rows
from plait.data.rows import MAX_ROW_BYTES, Row, RowError, kind_of
from plait.errors import DataError

_CHUNK_BYTES = 1 << 16
_SPACE = " \t\r\n"
_DECODER = json.JSONDecoder()


def json_rows(file: BinaryIO, path: Path) -> Iterator[Row]:
    """The objects of a file.

    Args:
        file: its bytes, UTF-8.
        path: its name, for errors.

    Raises:
        DataError: it is not JSON, holds no list or several, or one of a list is not an object.
        OSError: the file cannot be read.
    """
    again = _Again(file)
    if _is_json_lines(again):
        yield from jsonl_rows(cast("BinaryIO", again.rewound()), path)
        return
    document = _Document(again.rewound(), path)
    if document.take("["):
        yield from _elements(document, path)
    elif document.take("{"):
        yield from _list_in_object(document, path)
    elif document.peek():
        raise document.error("has something else than a list or an object, expected a list of objects")
    if document.peek():
        raise document.error("has something after the end of the JSON document, expected one document")


class _Again:
    """A file whose beginning can be read again."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._begun = io.BytesIO()

    def readline(self, size: int) -> bytes:
        line = self._begun.readline(size)
        return line if line.endswith(b"\n") else line + self._file.readline(size - len(line))

    def read(self, size: int) -> bytes:
        return self._begun.read(size) or self._file.read(size)

    def begun(self, size: int = 0) -> bytes:
        """Read a line, or up to `size` bytes, and remember it."""
        data = self._file.read(size) if size else self._file.readline(MAX_ROW_BYTES)
        self._begun.write(data)
        return data

    def rewound(self) -> _Again:
        self._begun.seek(0)
        return self


def _is_json_lines(again: _Again) -> bool:
    """Whether the first line is one whole object, and a record by itself or followed by something else."""
    line = again.begun()
    try:
        first = cast("object", json.loads(line))
    except (ValueError, RecursionError):
        return False
    if not isinstance(first, dict):
        return False
    if shape_of(cast("dict[str, object]", first)):
        return True
    # What is remembered is bounded: a record has no more space than it may have text.
    for _ in range(MAX_ROW_BYTES):
        if not (byte := again.begun(1)) or not byte.isspace():
            return bool(byte)
    return False


def _elements(document: _Document, path: Path) -> Iterator[Row]:
    number = 0
    while not document.take("]"):
        if number and not document.take(","):
            raise document.error("is not JSON: expected ',' or ']'")
        number += 1
        place = f"record {number} of '{path}'"
        value = document.value()
        if not isinstance(value, dict):
            raise RowError(f"is {kind_of(value)}, expected an object").at(place)
        yield Row(place, cast("dict[str, object]", value))


def _list_in_object(document: _Document, path: Path) -> Iterator[Row]:
    name, first = "", True
    while not document.take("}"):
        if not first and not document.take(","):
            raise document.error("is not JSON: expected ',' or '}'")
        first = False
        key = document.value()
        if not isinstance(key, str) or not document.take(":"):
            raise document.error("is not JSON: expected the name of a value and ':'")
        if document.take("["):
            if name:
                raise DataError(f"'{path}' has the lists {name[:32]!a} and {key[:32]!a}, expected one list of objects")
            name = key or "''"
            yield from _elements(document, path)
        else:
            document.value()
    if not name:
        raise DataError(f"'{path}' is an object without a list, expected a list of objects or an object with one")


class _Document:
    """A JSON document, read value by value."""

    def __init__(self, file: _Again, path: Path) -> None:
        self._file, self._path = file, path
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._at = 0
        self._bytes = 0
        self._lines = 0
        self._is_whole = False
        self._more(_CHUNK_BYTES)
        self._text = self._text.removeprefix("\ufeff")

    def peek(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if self._is_whole:
                return ""
            self._more(_CHUNK_BYTES)

    def take(self, mark: str) -> bool:
        """Whether the next character is this mark, which is then taken."""
        if self.peek() != mark:
            return False
        self._at += 1
        return True

    def value(self) -> object:
        """The next value."""
        size = _CHUNK_BYTES
        while True:
            self.peek()
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except RecursionError as error:
                raise self.error("is not JSON that can be read: too deep a nesting") from error
            except json.JSONDecodeError as error:
                if self._is_whole:
                    self._at = error.pos
                    raise self.error(f"is not JSON: {error.msg}") from error
            except ValueError as error:
                raise self.error("is not JSON that can be read: too long a number") from error
            else:
                # A number at the end of what was read may go on.
                if end < len(self._text) or self._is_whole:
                    self._at = end
                    return cast("object", value)
            if len(self._text) - self._at > MAX_ROW_BYTES:
                raise self.error(f"has a value that is cut off or longer than {MAX_ROW_BYTES:,} characters")
            self._more(size)
            size *= 2

    def error(self, message: str) -> DataError:
        """An error at this position."""
        line = self._lines + self._text.count("\n", 0, self._at) + 1
        return DataError(f"line {line} of '{self._path}' {message}")

    def _more(self, size: int) -> None:
        """Read on; what is behind the position is forgotten."""
        data = self._file.read(size)
        self._lines += self._text.count("\n", 0, self._at)
        try:
            text = self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            byte = self._bytes + error.start + 1
            raise DataError(
                f"byte {byte} of '{self._path}' is 0x{error.object[error.start]:02x}, expected UTF-8; save it as UTF-8"
            ) from error
        self._text, self._at = self._text[self._at :] + text, 0
        self._bytes += len(data)
        self._is_whole = not data

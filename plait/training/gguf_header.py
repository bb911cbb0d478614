"""Check the header of a GGUF file before a library believes it: every length against the bytes that are there.

The `gguf` package walks an array of as many items as a file claims to have, and takes some hundred bytes for each.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Knows no model.
"""

from __future__ import annotations

import math
import os
import struct
from io import BufferedReader
from pathlib import Path

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from plait.adapters.strict_json import shown
from plait.errors import DataError

MOST_ITEMS = 1 << 22
"""Of all arrays together: a vocabulary, its scores and its merges are a million."""
_MOST_ENTRIES = 1 << 16
_MOST_NAME_BYTES = 1 << 16
_MOST_DIMENSIONS = 4
_STRING, _ARRAY, _WORD = 8, 9, 4
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_VERSIONS = (2, 3)


def check_gguf(path: Path) -> None:
    """Refuse a file that is damaged, or not what it claims to be; reads no tensor.

    Raises:
        DataError: the message says what is wrong, in one line.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        _Header(path, file, os.fstat(file.fileno()).st_size).check()


class _Header:
    def __init__(self, path: Path, file: BufferedReader, size: int) -> None:
        self._path, self._file, self._left = path, file, size
        self._size = size
        self._items = 0
        self._alignment = 32

    def check(self) -> None:
        if self._left < 4 or self._taken(4) != b"GGUF":
            raise DataError(f"'{self._path}' does not begin as a GGUF file does")
        version = self._number(4)
        if version not in _VERSIONS:
            raise DataError(f"'{self._path}' has version {version} of GGUF, expected 2 or 3 in little-endian order")
        tensors, entries = self._count("tensors"), self._count("entries")
        for _ in range(entries):
            self._entry()
        ends = [self._tensor() for _ in range(tensors)]
        begin = self._size - self._left
        begin += -begin % self._alignment
        if ends and begin + max(ends) > self._size:
            raise DataError(f"'{self._path}' has {self._size} bytes, expected {begin + max(ends)}: it is cut off")

    def _entry(self) -> None:
        key, kind = self._name("key"), self._number(4)
        if kind == _ARRAY:
            kind, count = self._number(4), self._number(8)
            self._items += count
            if self._items > MOST_ITEMS:
                raise DataError(f"{shown(key)} of '{self._path}' has {count} items, expected at most {MOST_ITEMS}")
            if kind == _STRING:
                for _ in range(count):
                    self._skip(self._number(8))
            else:
                self._skip(count * self._size_of(kind, key))
        elif kind == _STRING:
            self._skip(self._number(8))
        elif key == "general.alignment":
            self._alignment = self._number(4) if kind == _WORD else 0
            if self._alignment < 1 or self._alignment & (self._alignment - 1):
                raise DataError(f"general.alignment of '{self._path}' is no power of two")
        else:
            self._skip(self._size_of(kind, key))

    def _tensor(self) -> int:
        """Where its bytes end, counted from where those of all begin."""
        name, dimensions = self._name("tensor"), self._number(4)
        if not 1 <= dimensions <= _MOST_DIMENSIONS:
            raise DataError(f"tensor {shown(name)} of '{self._path}' has {dimensions} dimensions, expected 1 to 4")
        shape = [self._number(8) for _ in range(dimensions)]
        kind, offset = self._number(4), self._number(8)
        if kind not in set(GGMLQuantizationType):
            raise DataError(f"tensor {shown(name)} of '{self._path}' has type {kind}, which the gguf package lacks")
        values, nbytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        if 0 in shape or shape[0] % values or offset % self._alignment:
            raise DataError(f"tensor {shown(name)} of '{self._path}' is no whole number of blocks of its type")
        return offset + math.prod(shape) // values * nbytes

    def _name(self, what: str) -> str:
        count = self._number(8)
        if count > _MOST_NAME_BYTES:
            raise DataError(f"a {what} of '{self._path}' has a name of {count} bytes, expected at most 65536")
        try:
            return self._taken(count).decode()
        except UnicodeDecodeError as error:
            raise DataError(f"a {what} of '{self._path}' has a name that is not UTF-8") from error

    def _count(self, what: str) -> int:
        count = self._number(8)
        if count > _MOST_ENTRIES:
            raise DataError(f"'{self._path}' has {count} {what}, expected at most {_MOST_ENTRIES}")
        return count

    def _size_of(self, kind: int, key: str) -> int:
        if kind not in _SIZES:
            raise DataError(f"{shown(key)} of '{self._path}' has type {kind}, expected a number, a text or a list")
        return _SIZES[kind]

    def _number(self, count: int) -> int:
        return struct.unpack("<I" if count == 4 else "<Q", self._taken(count))[0]

    def _taken(self, count: int) -> bytes:
        self._spend(count)
        return self._file.read(count)

    def _skip(self, count: int) -> None:
        self._spend(count)
        self._file.seek(count, os.SEEK_CUR)

    def _spend(self, count: int) -> None:
        if count > self._left:
            raise DataError(f"'{self._path}' ends in its header: it is cut off, or damaged")
        self._left -= count

"""The header of a GGUF file: its single values, and where its tensors lie; each length is checked against the file's.

The `gguf` package's own reader walks an array of as many items as a file claims to have, and takes some hundred bytes
for each; here lists are only counted. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Knows no
model.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from io import BufferedReader
from itertools import pairwise
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from plait.adapters.strict_json import shown
from plait.errors import DataError

MOST_ITEMS = 1 << 22
"""Of all arrays together: a vocabulary, its scores and its merges are a million."""
_MOST_ENTRIES = 1 << 16
_MOST_NAME_BYTES = 1 << 10  # llama.cpp's own tensors have 64 at most, and all names are kept
_MOST_TEXT_BYTES = 1 << 10  # of a value that is kept; longer ones, as chat templates, are the tokenizer's
_MOST_DIMENSIONS = 4
_STRING, _ARRAY = 8, 9
_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_VERSIONS = (2, 3)


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of a file, without its values.

    Attributes:
        shape: as torch has it, rows first.
        offset: of its first byte in the file.
    """

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    offset: int
    nbytes: int

    @property
    def size(self) -> int:
        """How many values it has."""
        return math.prod(self.shape)

    def rows(self, path: Path) -> NDArray[np.uint8]:
        """(rows, bytes of a row), read into memory of its own: pages of a mapped file would stay."""
        held = np.fromfile(path, np.uint8, self.nbytes, offset=self.offset)
        return held.reshape(self.size // self.shape[-1], -1)


@dataclass(frozen=True)
class GgufHeader:
    """What a file says before its tensors.

    Attributes:
        values: its entries that are one number or one short text.
        counts: how many items its lists have.
    """

    values: Mapping[str, int | float | str]
    counts: Mapping[str, int]
    tensors: Mapping[str, GgufTensor]


def read_gguf_header(path: Path) -> GgufHeader:
    """Read all but values of tensors and items of lists.

    Raises:
        DataError: it is damaged, or not what it claims to be; the message says what is wrong, in one line.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return _Reading(path, file, os.fstat(file.fileno()).st_size).header()


class _Reading:
    def __init__(self, path: Path, file: BufferedReader, size: int) -> None:
        self._path, self._file, self._left = path, file, size
        self._size = size
        self._items = 0
        self._values: dict[str, int | float | str] = {}
        self._counts: dict[str, int] = {}

    def header(self) -> GgufHeader:
        if self._left < 4 or self._taken(4) != b"GGUF":
            raise DataError(f"'{self._path}' does not begin as a GGUF file does")
        version = self._number(4)
        if version not in _VERSIONS:
            raise DataError(f"'{self._path}' has version {version} of GGUF, expected 2 or 3 in little-endian order")
        tensors, entries = self._count("tensors"), self._count("entries")
        for _ in range(entries):
            self._entry()
        alignment = self._values.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise DataError(f"general.alignment of '{self._path}' is no power of two")
        found: dict[str, GgufTensor] = {}
        for _ in range(tensors):
            tensor = self._tensor(alignment)
            if tensor.name in found:
                raise DataError(f"'{self._path}' has tensor {shown(tensor.name)} twice")
            found[tensor.name] = tensor
        begin = self._size - self._left
        begin += -begin % alignment
        end = begin + max((tensor.offset + tensor.nbytes for tensor in found.values()), default=0)
        if found and end > self._size:
            raise DataError(f"'{self._path}' has {self._size} bytes, expected {end}: it is cut off")
        places = sorted((tensor.offset, tensor.offset + tensor.nbytes, name) for name, tensor in found.items())
        for (_, before, _), (first, _, name) in pairwise(places):
            # Else a small file would be written as a base of any size.
            if first < before:
                raise DataError(f"tensor {shown(name)} of '{self._path}' begins within another one")
        placed = {name: replace(tensor, offset=begin + tensor.offset) for name, tensor in found.items()}
        return GgufHeader(self._values, self._counts, placed)

    def _entry(self) -> None:
        key, kind = self._name("key"), self._number(4)
        if key in self._values or key in self._counts:
            raise DataError(f"'{self._path}' has {shown(key)} twice")
        if kind == _ARRAY:
            kind, count = self._number(4), self._number(8)
            self._items += count
            if self._items > MOST_ITEMS:
                raise DataError(f"{shown(key)} of '{self._path}' has {count} items, expected at most {MOST_ITEMS}")
            if kind == _STRING:
                for _ in range(count):
                    self._skip(self._number(8))
            else:
                self._skip(count * struct.calcsize(self._format_of(kind, key)))
            self._counts[key] = count
        elif kind == _STRING:
            size = self._number(8)
            if size > _MOST_TEXT_BYTES:
                self._skip(size)
            else:
                self._values[key] = self._taken(size).decode(errors="replace")
        else:
            form = self._format_of(kind, key)
            (self._values[key],) = struct.unpack(form, self._taken(struct.calcsize(form)))

    def _tensor(self, alignment: int) -> GgufTensor:
        """The next one; its offset counts from where the bytes of all begin."""
        name, dimensions = self._name("tensor"), self._number(4)
        if not 1 <= dimensions <= _MOST_DIMENSIONS:
            raise DataError(f"tensor {shown(name)} of '{self._path}' has {dimensions} dimensions, expected 1 to 4")
        shape = [self._number(8) for _ in range(dimensions)]
        kind, offset = self._number(4), self._number(8)
        if kind not in set(GGMLQuantizationType):
            raise DataError(f"tensor {shown(name)} of '{self._path}' has type {kind}, which the gguf package lacks")
        values, nbytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        if 0 in shape or shape[0] % values or offset % alignment:
            raise DataError(f"tensor {shown(name)} of '{self._path}' is no whole number of blocks of its type")
        stored = math.prod(shape) // values * nbytes
        return GgufTensor(name, tuple(reversed(shape)), GGMLQuantizationType(kind), offset, stored)

    def _name(self, what: str) -> str:
        count = self._number(8)
        if count > _MOST_NAME_BYTES:
            raise DataError(
                f"a {what} of '{self._path}' has a name of {count} bytes, expected at most {_MOST_NAME_BYTES}"
            )
        try:
            return self._taken(count).decode()
        except UnicodeDecodeError as error:
            raise DataError(f"a {what} of '{self._path}' has a name that is not UTF-8") from error

    def _count(self, what: str) -> int:
        count = self._number(8)
        if count > _MOST_ENTRIES:
            raise DataError(f"'{self._path}' has {count} {what}, expected at most {_MOST_ENTRIES}")
        return count

    def _format_of(self, kind: int, key: str) -> str:
        if kind not in _FORMATS:
            raise DataError(f"{shown(key)} of '{self._path}' has type {kind}, expected a number, a text or a list")
        return "<" + _FORMATS[kind]

    def _number(self, count: int) -> int:
        return struct.unpack("<I" if count == 4 else "<Q", self._taken(count))[0]

    def _taken(self, count: int) -> bytes:
        self._spend(count)
        found = self._file.read(count)
        if len(found) < count:
            raise DataError(f"'{self._path}' ends in its header: it has been cut off meanwhile")
        return found

    def _skip(self, count: int) -> None:
        self._spend(count)
        self._file.seek(count, os.SEEK_CUR)

    def _spend(self, count: int) -> None:
        if count > self._left:
            raise DataError(f"'{self._path}' ends in its header: it is cut off, or damaged")
        self._left -= count

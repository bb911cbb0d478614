"""Limits what a file may hold for its size: a few hundred bytes can stand for endless rows or gigabytes of blanks.

A file can say one thing many times at no cost (packed blank lines, a column without values, a batch that is named a
thousand times), and none of that takes memory, which `Room` bounds. So what there is to step through is bounded by the
size of the file.
"""

from __future__ import annotations

import stat
from pathlib import Path

from plait.errors import DataError

# More than gzip can reach, which is 1,032.
_MOST_BYTES_PER_BYTE = 1100
_FREE_BYTES = 1 << 20
_CELLS_PER_BYTE = 256
_FREE_CELLS = 1 << 22
_CELLS_OF_ROW = 16


class Density:
    """How much of what a file may hold it has held so far.

    A row counts as its columns and 16 more. A file may have 256 of these for each byte, which is 15 rows of one
    column, and any file four million; it may unpack to 1,100 times its size and a mebibyte.
    """

    def __init__(self, path: Path) -> None:
        about = path.stat()
        self._path, self._size_bytes = path, about.st_size
        # What comes through a pipe was really sent.
        self._is_bounded = stat.S_ISREG(about.st_mode)
        self._bytes = self._cells = self._rows = 0

    def unpack(self, size_bytes: int) -> None:
        """Count bytes that were unpacked.

        Raises:
            DataError: the file is too small for what it has unpacked to.
        """
        self._bytes += size_bytes
        most = _FREE_BYTES + _MOST_BYTES_PER_BYTE * self._size_bytes
        if self._is_bounded and self._bytes > most:
            raise DataError(
                f"'{self._path}' has {self._size_bytes:,} bytes and unpacks to more than {most:,}, expected at most "
                f"{_MOST_BYTES_PER_BYTE:,} times its size; if the file is right, unpack it or write it again"
            )

    def row(self, columns: int) -> None:
        """Count a row.

        Raises:
            DataError: the file is too small for its rows.
        """
        self._rows += 1
        self._cells += columns + _CELLS_OF_ROW
        if self._is_bounded and self._cells > _FREE_CELLS + _CELLS_PER_BYTE * self._size_bytes:
            raise DataError(
                f"'{self._path}' has {self._size_bytes:,} bytes and at least {self._rows:,} rows, too many for its "
                f"size; if the file is right, leave out repeated rows and columns without values, or write it "
                "as JSON lines"
            )

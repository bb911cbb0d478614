"""What a stranger's file may take of this machine: bytes unpacked, rows, and memory while it is read.

A file is opened and unpacked (gzip, Zstandard) by what it begins with. Repetition can cost a file nothing and take no
memory, so what there is to step through is bounded by the file's size, too.
"""

import contextlib
import io
import stat
import sys
import threading
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from plait.data.rows import Room
from plait.errors import DataError
from plait.system import machine
from plait.system.files import failures_to

if sys.platform != "win32":
    import resource

if TYPE_CHECKING:
    from typing_extensions import Buffer

MOST_BATCH_BYTES = 4 << 30
"""What a batch of rows may take in memory, as the library reads it and as values of Python; on a machine with less than
twice as much, half of its memory."""


def most_batch_bytes() -> int:
    """`MOST_BATCH_BYTES` on this machine."""
    return min(MOST_BATCH_BYTES, machine.memory_bytes() // 2 or MOST_BATCH_BYTES)


class _MemoryLimit:
    """Lets this process allocate only so much more while a block runs (Linux only; elsewhere nothing happens).

    An allocation beyond it fails in whichever thread asks for it, instead of having the system kill the process. What
    an allocator has reserved before does not count. Blocks that overlap share the limit of the first.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks = 0
        self._before = (0, 0)

    @contextlib.contextmanager
    def __call__(self, most_bytes: int) -> Generator[None]:
        if sys.platform != "linux":
            yield
            return
        with self._lock:
            if not self._blocks:
                soft, hard = self._before = resource.getrlimit(resource.RLIMIT_DATA)
                pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])
                limits = (pages * resource.getpagesize() + most_bytes, soft, hard)
                limit = min(limit for limit in limits if limit != resource.RLIM_INFINITY)
                resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
            self._blocks += 1
        try:
            yield
        finally:
            with self._lock:
                self._blocks -= 1
                if not self._blocks:
                    resource.setrlimit(resource.RLIMIT_DATA, self._before)


memory_limit = _MemoryLimit()


_PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
# Of files that are no text, whatever their name.
_OTHERS = {
    b"PAR1": "a Parquet file; name it .parquet",
    b"ARROW1": "an Arrow file; name it .arrow",
    b"PK\x03\x04": "a ZIP archive or an office document; unpack it, or save it as CSV",
    b"BZh": "packed with bzip2; unpack it, or pack it with gzip or zstd",
    b"\xfd7zXZ": "packed with xz; unpack it, or pack it with gzip or zstd",
}


class _Unpacked(io.RawIOBase):
    """The unpacked bytes, counted, so that a small file cannot fill the memory."""

    def __init__(self, reader: BinaryIO, path: Path, room: Room) -> None:
        self._reader, self._path, self._room = reader, path, room
        self._density = Density(path)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "Buffer", /) -> int:
        view = memoryview(buffer).cast("B")
        try:
            data = self._reader.read(len(view))
        except OSError as error:
            raise DataError(f"'{self._path}' is damaged or cut off: {error}; pack or copy it again") from error
        self._room.take(len(data), f"'{self._path}'")
        self._density.unpack(len(data))
        view[: len(data)] = data
        return len(data)


@contextlib.contextmanager
def opened(path: Path, *, expected: str, room: Room | None = None) -> Generator[BinaryIO]:
    """The bytes of a file, unpacked; DataError, also while they are read, if it is damaged or holds something else."""
    with failures_to(f"read '{path}'", DataError), path.open("rb") as file:
        start = file.peek(8)
        for magic, what in _OTHERS.items():
            if start.startswith(magic):
                raise DataError(f"'{path}' is {what}, expected {expected}")
        codec = next((codec for magic, codec in _PACKED.items() if start.startswith(magic)), "")
        if not codec:
            yield file
            return
        import pyarrow as pa  # few files are packed

        with pa.CompressedInputStream(pa.PythonFile(file, mode="r"), codec) as reader:
            yield io.BufferedReader(_Unpacked(cast("BinaryIO", reader), path, room or Room()), 1 << 16)


# More than gzip can reach, which is 1,032.
_MOST_BYTES_PER_BYTE = 1100
_FREE_BYTES = 1 << 20
_CELLS_PER_BYTE = 256
_FREE_CELLS = 1 << 22
_CELLS_OF_ROW = 16


class Density:
    """How much of what a file may hold it has held so far; a row counts as its columns and 16 more."""

    def __init__(self, path: Path) -> None:
        about = path.stat()
        self._path, self._size_bytes = path, about.st_size
        # What comes through a pipe was really sent.
        self._is_bounded = stat.S_ISREG(about.st_mode)
        self._bytes = self._cells = self._rows = 0

    def unpack(self, size_bytes: int) -> None:
        """Count bytes that were unpacked; DataError if the file is too small for them."""
        self._bytes += size_bytes
        most = _FREE_BYTES + _MOST_BYTES_PER_BYTE * self._size_bytes
        if self._is_bounded and self._bytes > most:
            raise DataError(
                f"'{self._path}' has {self._size_bytes:,} bytes and unpacks to more than {most:,}, expected at most "
                f"{_MOST_BYTES_PER_BYTE:,} times its size; if the file is right, unpack it or write it again"
            )

    def row(self, columns: int) -> None:
        """Count a row; DataError if the file is too small for its rows."""
        self._rows += 1
        self._cells += columns + _CELLS_OF_ROW
        if self._is_bounded and self._cells > _FREE_CELLS + _CELLS_PER_BYTE * self._size_bytes:
            raise DataError(
                f"'{self._path}' has {self._size_bytes:,} bytes and at least {self._rows:,} rows, too many for its "
                f"size; if the file is right, leave out repeated rows and columns without values, or write it "
                "as JSON lines"
            )

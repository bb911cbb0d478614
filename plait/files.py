"""Read files that may not be there, and write them so that a power cut leaves the old content or the new, never half.

Knows nothing of what the files hold.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import shutil
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

from plait.errors import MachineError

_SYNC_FILE_RANGE_WRITE = 2  # linux/fs.h
_MADV_POPULATE_READ = 22  # asm-generic/mman-common.h, from Linux 5.14 on


def write_atomically(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write `data` aside, fsync it and rename it over `path`.

    Args:
        path: where it goes.
        data: all of it.
        mode: who may read it, from the first byte on.

    Raises:
        MachineError: the directory is missing or read-only, or the disk is full; `path` is as it was.
    """
    temporary: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path))
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        temporary = None
        fsync_directory(path.parent)
    except OSError as error:
        raise MachineError(f"cannot write '{path}': {error.strerror or error}") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


def read_if_there(path: Path) -> bytes | None:
    """What a file holds; None where there is none.

    Raises:
        MachineError: there is one that cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise MachineError(f"cannot read '{path}': {error.strerror or error}") from error


def fsync_directory(path: Path) -> None:
    """Make the names inside `path` durable (a no-op where directories cannot be opened, as on Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def directory_written_aside(path: Path) -> Generator[Path]:
    """Yield an empty directory beside `path`; when the block ends well, it takes the place of `path`.

    An existing directory is moved away first and removed last, so that a crash leaves one of the two whole; a failure
    moves it back.

    Raises:
        MachineError: the parent is missing or read-only, or the disk is full; `path` is as it was.
    """
    aside: Path | None = None
    try:
        aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=_prefix(path)))
        aside.chmod(0o755)
        yield aside
        for file in aside.rglob("*"):
            if file.is_file():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        fsync_directory(aside)
        _exchange(aside, path)
        fsync_directory(path.parent)
    except OSError as error:
        raise MachineError(f"cannot write '{path}': {error.strerror or error}") from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


def _exchange(new: Path, path: Path) -> None:
    if not path.exists():
        new.replace(path)
        return
    away = Path(tempfile.mkdtemp(dir=path.parent, prefix=f"{_prefix(path)}old."))
    old = away / path.name
    try:
        path.replace(old)
        new.replace(path)
    finally:
        if old.exists() and not path.exists():
            old.replace(path)
        shutil.rmtree(away, ignore_errors=True)


def _prefix(path: Path) -> str:
    return f".{path.name[:32]}."


def begin_to_store(descriptor: int, offset: int, size: int) -> None:
    """Have the disk begin to write a part of a file, so that a later fsync finds less to wait for (Linux only).

    Promises nothing: elsewhere, and where it does not work, nothing happens.

    Args:
        descriptor: of the file.
        offset: where the part begins, in bytes.
        size: of the part, in bytes.
    """
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):
            part = ctypes.c_int64(offset), ctypes.c_int64(size)
            ctypes.CDLL(None).sync_file_range(descriptor, *part, _SYNC_FILE_RANGE_WRITE)


def map_file(descriptor: int) -> memoryview | None:
    """A whole file as memory that is the system's own copy of it, once all of it has been read.

    Valid for as long as the view is, also once the file has been deleted; nobody may write to the file meanwhile.

    Returns:
        None where that is not possible (the file is empty, or cannot be read, or this is not Linux): read it instead.
    """
    if sys.platform != "linux":
        return None
    try:
        mapped = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
        # A page that cannot be read is an error here; touched later it would end the process.
        mapped.madvise(_MADV_POPULATE_READ)
    except (OSError, ValueError):
        return None
    return memoryview(mapped)

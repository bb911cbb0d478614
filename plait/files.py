"""Write files so that a power cut leaves either the old content or the new, never half of it.

Knows nothing of what the files hold.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

from plait.errors import MachineError


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` aside, fsync it and rename it over `path`.

    Raises:
        MachineError: the directory is missing or read-only, or the disk is full.
    """
    temporary: str | None = None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:32]}.")
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
        fsync_directory(path.parent)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
        raise MachineError(f"cannot write '{path}': {error.strerror or error}") from error


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

    An existing directory is moved away first and removed last, so that a crash leaves one of the two whole.

    Raises:
        MachineError: the parent is missing or read-only, or the disk is full.
    """
    aside: Path | None = None
    try:
        aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name[:32]}."))
        aside.chmod(0o755)
        yield aside
        for file in aside.rglob("*"):
            if file.is_file():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        fsync_directory(aside)
        old: Path | None = None
        if path.exists():
            old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name[:32]}.old."))
            path.replace(old / path.name)
        aside.replace(path)
        fsync_directory(path.parent)
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise MachineError(f"cannot write '{path}': {error.strerror or error}") from error
    finally:
        if aside is not None and aside.exists():
            shutil.rmtree(aside, ignore_errors=True)

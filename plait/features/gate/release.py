"""The way out of quarantine."""

from __future__ import annotations

import shutil

from plait.files import cannot_write, fsync_directory
from plait.rounds.run_directory import RunDirectory


def release(directory: RunDirectory) -> None:
    """Let the adapter out of quarantine; may be repeated after a crash.

    Raises:
        MachineError: it cannot be moved.
    """
    if not directory.is_held_back:
        return
    held, released = directory.adapter, directory.path / "adapter"
    try:
        if held.is_dir():
            shutil.rmtree(released, ignore_errors=True)
            held.rename(released)
            fsync_directory(directory.path)
        shutil.rmtree(held.parent)
    except OSError as error:
        raise cannot_write(released, error, doing="move the adapter to") from error

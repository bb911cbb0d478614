"""Where nodes of this machine keep what must outlive them: ``STATE/<run>/<name>/``, and a lock for each name.

Knows nothing of what is kept there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Generator
from pathlib import Path

import platformdirs

from plait.errors import ConfigError, MachineError

RUNS_KEPT = 4
"""Runs whose state is kept for each name, the newest."""


def default_state_directory() -> Path:
    """The user's own place for such things."""
    return platformdirs.user_state_path("plait")


def memory_folder(state: Path, run_id: int, name: str) -> Path:
    """Where the node called `name` keeps what belongs to a run."""
    return state / f"{run_id:016x}" / name


def prune(state: Path, name: str, *, keep: Path) -> None:
    """Remove what a node kept for runs long ago; `keep` stays, and with it the newest others.

    What cannot be removed stays: it does no harm but take space.
    """
    folders = [folder for folder in state.glob(f"*/{name}") if folder.is_dir() and folder != keep]
    by_age = sorted(folders, key=_age, reverse=True)
    for folder in by_age[RUNS_KEPT - 1 :]:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.parent.rmdir()  # stays where another node's state is in it


@contextlib.contextmanager
def locked(state: Path, name: str) -> Generator[None]:
    """Hold the state of a name for this process alone; the system lets go of it however the process ends.

    Raises:
        ConfigError: another process holds it.
        MachineError: the directory cannot be made or written.
    """
    path = state / f"{name}.lock"
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise MachineError(f"cannot write '{path}': {error.strerror or error}; give another --state") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"state '{state}' of '{name}' is in use by process {_holder(descriptor)}, expected one node a name; "
                "stop the other, or give another --name or --state"
            ) from error
        except OSError as error:
            raise MachineError(f"cannot lock '{path}': {error.strerror or error}; give another --state") from error
        # Only for whoever meets the lock; a full disk is no reason not to work.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    text = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
    return text if text.isdecimal() else "unknown"


def _age(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0

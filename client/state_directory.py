"""State of this machine's nodes on disk: ``STATE/<run>/<name>/``, and a lock for each name.

Everything there is private to its owner. Of the content it knows only which parts the server could send again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from plait.errors import ConfigError, MachineError
from plait.files import make_private_directory

RUNS_KEPT = 4
"""Number of newest runs per name whose state is kept in full."""
_OWN = "own"
_PAUSE_S = 0.2
_REPLACEABLE = ("adapter", "base", "settings", "spec")


@dataclass(frozen=True)
class EarlierRuns:
    """State of earlier runs."""

    runs: int
    bytes: int


def default_state_directory() -> Path:
    """The directory for state in the user's home."""
    return platformdirs.user_state_path("plait")


def memory_folder(state: Path, run_id: int, name: str) -> Path:
    """Directory of the node `name` in a run."""
    return state / f"{run_id:016x}" / name


def prune(state: Path, name: str, *, keep: Path) -> EarlierRuns:
    """Remove the parts of old runs that the server could send again; `keep` and the newest others stay complete.

    Unique parts stay until the operator removes them: a personalized adapter and its inputs, an encoder's residual, an
    optimizer's moments, a drift. Parts that cannot be removed stay too.

    Returns:
        What remains of earlier runs.
    """
    folders = sorted((folder for folder in state.glob(f"*/{name}") if folder != keep), key=_age, reverse=True)
    for folder in folders[RUNS_KEPT - 1 :]:
        with contextlib.suppress(OSError):
            if not (folder / _OWN).exists():
                for key in _REPLACEABLE:
                    (folder / key).unlink(missing_ok=True)
            folder.rmdir()  # fails if something unique is in it
            folder.parent.rmdir()  # fails if another node's state is there
    left = [folder for folder in folders if folder.is_dir()]
    return EarlierRuns(len(left), sum(map(_size, left)))


@contextlib.contextmanager
def locked(state: Path, name: str, *, patience_s: float = 0.0) -> Generator[None]:
    """Lock the state of a name for this process; the system releases it however the process ends.

    Raises:
        ConfigError: another process holds it.
        MachineError: the directory cannot be made or written.
    """
    path = state / f"{name}.lock"
    try:
        make_private_directory(state)
        # What was copied here may be open to others.
        for folder in (each for kept in state.glob(f"*/{name}") for each in (kept.parent, kept)):
            folder.chmod(0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise MachineError(f"cannot write '{path}': {error.strerror or error}; give another --state") from error
    try:
        try:
            _lock(descriptor, patience_s)
        except BlockingIOError as error:
            raise ConfigError(
                f"state '{state}' of '{name}' is in use by process {_holder(descriptor)}, expected one node per name; "
                "stop the other, or give another name or state"
            ) from error
        except OSError as error:
            raise MachineError(f"cannot lock '{path}': {error.strerror or error}; give another --state") from error
        # Only for the message to the next process; a full disk must not stop the work.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, patience_s: float) -> None:
    end = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise
            time.sleep(_PAUSE_S)
        else:
            return


def _holder(descriptor: int) -> str:
    text = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
    return text if text.isdecimal() else "unknown"


def _size(folder: Path) -> int:
    with contextlib.suppress(OSError):
        return sum(file.stat().st_size for file in folder.iterdir())
    return 0


def _age(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0

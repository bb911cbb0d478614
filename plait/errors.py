"""Every error that plait raises on purpose, and its cause.

    PlaitError                      exit code 1
    ├── ConfigError            2    the user's: an invalid setting or combination
    │   └── PartError               ... a part of the user's own fails at its work
    ├── DataError              3    the data's: an invalid file or record
    │   └── TooLittleDataError      ... too little data
    ├── PeerError              3    another party's: bytes from outside are refused
    │   ├── BaseMismatchError       ... they belong to another base model
    │   └── PolicyError             ... this machine's operator did not agree to the request
    ├── MachineError           1    the machine's: disk, memory, network, a missing package
    │   └── DiskFullError           ... a disk, or a quota on it, is full
    ├── RunInterrupted         130  no fault: Ctrl-C, or a callback pauses; `plait resume` continues
    └── Abandoned              1    no fault: the result of this work is no longer needed (`check_abandoned`)

A message says what is wrong and what to do: ``rank of 'q_proj' is 16, expected 8``. It never carries training text.
"""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Callable, Iterable
from contextvars import ContextVar


class PlaitError(Exception):
    """Base of every error that plait raises on purpose.

    Attributes:
        exit_code: exit code of the command line if this error ends it.
    """

    exit_code = 1


class ConfigError(PlaitError):
    """An invalid setting or combination of settings."""

    exit_code = 2


class PartError(ConfigError):
    """A part of the user's own (a trainer, a loss, a reward) raises, or gives what it must not.

    `in_full` quotes the part's own exception, which may quote training text: for the part's author alone.
    """

    def __init__(self, message: str, in_full: str = "") -> None:
        super().__init__(message)
        self.in_full = in_full or message


class DataError(PlaitError):
    """An invalid data file or record."""

    exit_code = 3


class TooLittleDataError(DataError):
    """Valid data, but too little to train on and to hold some out."""


class PeerError(PlaitError):
    """Bytes from outside (a peer, an adapter file, a run directory) that are refused."""

    exit_code = 3


class BaseMismatchError(PeerError):
    """An adapter, update or broadcast that belongs to another base model."""


class PolicyError(PeerError):
    """A server asks a client for something that the client's operator did not agree to."""


class MachineError(PlaitError):
    """A resource that this machine lacks: space, memory, network, a package, a permission."""


class DiskFullError(MachineError):
    """A disk, or a quota on it, is full. The same work can continue once there is room."""


class RunInterrupted(PlaitError):  # noqa: N818 (it is no error, it only travels like one)
    """The user asked to stop; everything received so far is on disk."""

    exit_code = 130


class Abandoned(PlaitError):  # noqa: N818 (it is no error, it only travels like one)
    """The result of this work is no longer needed."""


OBEYED: ContextVar[Callable[[], object] | None] = ContextVar("obeyed", default=None)
"""What the work of this thread calls between two steps; raises `Abandoned` if the work should stop (`client.task`)."""


def check_abandoned() -> None:
    """Called by work between two steps: raises `Abandoned` if it should stop."""
    if step := OBEYED.get():
        step()


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """The end of an error message that names the nearest known word; empty if none is near."""
    near = difflib.get_close_matches(given, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


def check_format(what: str, found: object, expected: int, *, error: type[PlaitError] = PeerError) -> None:
    """Refuse what another version of plait wrote, in a format that this one does not read."""
    if found != expected:
        raise error(f"{what} has format {ascii(found)[:40]}, expected {expected}: read it with the plait that wrote it")


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_DISK_IS_FULL = ("No space left on device", "Disk quota exceeded")
# Messages of libraries that have no error class for it: torch's allocator and the systems below it.
_NO_MEMORY = ("can't allocate memory", "Cannot allocate memory", "not enough memory", "out of memory")
_ASKED_FOR = re.compile(r"(?:tried|[Uu]nable) to allocate ([\d.]+ ?[A-Za-z]+)", re.IGNORECASE)


def machine_fault(error: BaseException) -> MachineError | None:
    """The error for a full disk or lack of memory, from any library; None if `error` is something else."""
    text = str(error)
    if (isinstance(error, OSError) and error.errno in _FULL) or any(words in text for words in _DISK_IS_FULL):
        place = getattr(error, "filename", None)
        return MachineError(
            f"the disk is full{f' at {place!r}' if place else ''}: free some space or choose a place on another disk, "
            "then run the same command again"
        )
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if named or any(words in text for words in _NO_MEMORY):
        asked = _ASKED_FOR.search(text)
        where = "GPU" if "CUDA" in text or "MPS" in text else "machine"
        wanted = f" ({asked[1]} more were asked for)" if asked else ""
        return MachineError(
            f"this {where} has too little memory{wanted}: stop other programs, or use a smaller --base, "
            "--batch-size, --seq-len or --rank"
        )
    return None

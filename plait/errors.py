"""Every error that plait raises on purpose, and whose fault each one is.

    PlaitError                      exit code 1
    ├── ConfigError            2    yours: what was asked for cannot be
    │   └── EarlierFormatError      ... because what is kept on disk was written by another version of plait
    ├── DataError              3    the data's: a file or a record is not what it must be
    │   └── TooLittleDataError      ... because there is too little of them
    ├── PeerError              3    another party's: bytes that came from outside are refused
    │   ├── BaseMismatchError       ... because they belong to another base model
    │   └── PolicyError             ... because this machine's operator did not agree to what they ask
    ├── MachineError           1    the machine's: disk, memory, network, a missing package
    │   └── DiskFullError           ... because a disk, or a quota on it, is full
    └── Interrupted            1    nobody's: Ctrl-C; the state is saved, `plait resume` goes on

A message has three parts, what, got and expected: ``rank of 'q_proj' is 16, expected 8``. It never carries training
text.
"""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable


class PlaitError(Exception):
    """Base of every error that plait raises on purpose.

    Attributes:
        exit_code: what the command line exits with when this error ends it.
    """

    exit_code = 1


class ConfigError(PlaitError):
    """A setting, or a combination of settings, that cannot be."""

    exit_code = 2


class EarlierFormatError(ConfigError):
    """Something kept on disk that another version of plait wrote, and that this one does not read."""


class DataError(PlaitError):
    """A data file or a record that is not what it must be."""

    exit_code = 3


class TooLittleDataError(DataError):
    """Data that are fit for use, but too few to train on and to hold some out."""


class PeerError(PlaitError):
    """Bytes from outside (a peer, an adapter file, a run directory) that are refused."""

    exit_code = 3


class BaseMismatchError(PeerError):
    """An adapter, update or broadcast that belongs to another base model."""


class PolicyError(PeerError):
    """A server asks a client for other or more than the client's operator agreed to."""


class MachineError(PlaitError):
    """Something that this machine lacks: space, memory, network, a package, a permission."""


class DiskFullError(MachineError):
    """A disk, or a quota on it, is full. Once there is room the same work can go on where it stopped."""


class Interrupted(PlaitError):  # noqa: N818 (it is no error, it only travels like one)
    """The user asked to stop; everything received so far is on disk."""


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """The end of an error message that names the nearest known word; empty where none is near."""
    near = difflib.get_close_matches(given, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_DISK_IS_FULL = ("No space left on device", "Disk quota exceeded")
# By the words of libraries that raise no class of their own: torch's allocator, and the systems below it.
_NO_MEMORY = ("can't allocate memory", "Cannot allocate memory", "not enough memory", "out of memory")
_ASKED_FOR = re.compile(r"(?:tried|[Uu]nable) to allocate ([\d.]+ ?[A-Za-z]+)", re.IGNORECASE)


def machine_fault(error: BaseException) -> MachineError | None:
    """What a full disk or too little memory is called, whoever noticed it; None where `error` is something else."""
    text = str(error)
    if (isinstance(error, OSError) and error.errno in _FULL) or any(words in text for words in _DISK_IS_FULL):
        place = getattr(error, "filename", None)
        return MachineError(
            f"the disk is full{f' at {place!r}' if place else ''}: free some space or give a place on another disk, "
            "then run the same command again"
        )
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if named or any(words in text for words in _NO_MEMORY):
        asked = _ASKED_FOR.search(text)
        where = "GPU" if "CUDA" in text or "MPS" in text else "machine"
        wanted = f" ({asked[1]} more were asked for)" if asked else ""
        return MachineError(
            f"this {where} has too little memory{wanted}: stop what else uses it, or take a smaller --base, "
            "--batch-size, --seq-len or --rank"
        )
    return None

"""Which files this user's own processes wrote on this machine: a code beside each, under a key of the user's cache.

A directory that came from elsewhere has no such code, whatever it contains. Knows nothing of what the files hold.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from plait.errors import MachineError
from plait.files import is_ours, read_if_there, write_atomically

_KEY_BYTES = 32


def sign_own(file: Path, content: bytes) -> None:
    """Write beside `file` that this user's process wrote `content` to it.

    Where no key can be kept nothing is written, and `is_own` says no.

    Raises:
        MachineError: the code cannot be written.
    """
    if key := _key(make=True):
        write_atomically(_place(file), _code(key, file, content))


def is_own(file: Path, content: bytes) -> bool:
    """Whether a process of this user on this machine wrote `content` to a file of this name."""
    key = _key(make=False)
    try:
        stated = read_if_there(_place(file))
    except MachineError:
        return False
    return bool(key and stated) and hmac.compare_digest(_code(key, file, content), stated or b"")


def _place(file: Path) -> Path:
    return file.with_name(f".{file.name}.own")


def _code(key: bytes, file: Path, content: bytes) -> bytes:
    return hmac.new(key, file.name.encode() + b"\0" + content, hashlib.sha256).hexdigest().encode() + b"\n"


def _key(*, make: bool) -> bytes:
    """The user's key; empty if there is none or another user could have written it."""
    # With all readers of data: only where a directory is opened.
    from plait.data.cache import cache_directory

    try:
        place = cache_directory() / "own-runs.key"
        if make and not place.exists():
            _make(place)
        return place.read_bytes() if is_ours(place) else b""
    except (MachineError, OSError):
        return b""


def _make(place: Path) -> None:
    """Write a new key, unless another process does so first."""
    number, aside = tempfile.mkstemp(dir=place.parent)
    try:
        with open(number, "wb") as file:  # noqa: PTH123 (a descriptor)
            file.write(secrets.token_bytes(_KEY_BYTES))
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(aside, place)
    finally:
        Path(aside).unlink()

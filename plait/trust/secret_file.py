"""Files that only their owner may read: written with mode 0600 from the first byte, refused if others can read them.

Knows nothing of their content, and never shows it.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from plait.errors import ConfigError, MachineError
from plait.system.files import write_atomically

MAX_FILE_BYTES = 65_536


def write_secret(path: Path, data: bytes) -> None:
    """Write `data` to a temporary file with mode 0600, fsync it and rename it to `path`, which must not exist.

    Raises:
        ConfigError: `path` already exists.
        MachineError: the directory is missing or read-only, or the disk is full.
    """
    if path.exists():
        raise ConfigError(f"'{path}' is there already, expected a new file: secrets are never overwritten")
    write_atomically(path, data)


def read_secret(path: Path) -> bytes:
    """The content of `path`, if only its owner can read it.

    Raises:
        ConfigError: missing, too large, or readable by others; the message has the command that fixes it.
        MachineError: cannot be read.
    """
    data = read_small(path)
    mode = path.stat().st_mode & 0o777
    if os.name != "nt" and mode & 0o077:
        raise ConfigError(
            f"'{path}' has mode {mode:04o}, so others can read it, expected 0600: chmod 600 {shlex.quote(str(path))}"
        )
    return data


def read_small(path: Path) -> bytes:
    """The content of `path`, at most 64 KiB.

    Raises:
        ConfigError: missing or too large.
        MachineError: cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigError(f"'{path}' is missing, expected a file that `plait provision` made") from error
    except OSError as error:
        raise MachineError(f"cannot read '{path}': {error.strerror or error}") from error
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"'{path}' is larger than {MAX_FILE_BYTES} bytes, expected a key or a certificate")
    return data

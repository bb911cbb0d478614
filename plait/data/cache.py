"""Where fetched packages and converted bases are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from plait.errors import MachineError

VARIABLE = "PLAIT_CACHE"
_ADVICE = f"set {VARIABLE} to a directory of your own"


def cache_directory() -> Path:
    """The cache directory, made if it is missing: `PLAIT_CACHE` of the environment, or else the user's cache.

    Raises:
        MachineError: it cannot be made or written.
    """
    chosen = os.environ.get(VARIABLE)
    path = Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("plait", appauthor=False)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(f"cannot make the cache directory '{path}': {error.strerror or error}; {_ADVICE}") from error
    if not os.access(path, os.W_OK):
        raise MachineError(f"cannot write the cache directory '{path}'; {_ADVICE}")
    return path

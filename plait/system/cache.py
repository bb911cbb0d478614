"""The cache of downloaded packages, converted bases, compiled kernels and measurements.

Its content is loaded and trusted, so it must be writable only by this user (`plait.system.files.is_ours`). If others
can write the cache, a private temporary directory replaces it.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

import platformdirs

from plait.errors import MachineError
from plait.system.files import at_home, make_private_directory, others_can_change

VARIABLE = "PLAIT_CACHE"
_ADVICE = f"set {VARIABLE} to a directory of your own"
_LOGGER = logging.getLogger(__name__)


def cache_directory() -> Path:
    """The cache directory, made if missing: `PLAIT_CACHE` of the environment, or else the user's cache.

    Only this user and root can write there. If others can write to the chosen directory, it is left alone with a
    warning, and a temporary directory is used until the process ends.

    Raises:
        MachineError: it cannot be made or written.
    """
    chosen = os.environ.get(VARIABLE)
    path = at_home(chosen) if chosen else platformdirs.user_cache_path("plait", appauthor=False)
    try:
        make_private_directory(path)
        path = path.resolve()
        # Not everything below it: each entry is checked when it is read.
        wrong = others_can_change(path, depth=1)
    except OSError as error:
        raise MachineError(f"cannot make the cache directory '{path}': {error.strerror or error}; {_ADVICE}") from error
    if wrong:
        return _stand_in(wrong)
    if not os.access(path, os.W_OK):
        raise MachineError(f"cannot write the cache directory '{path}'; {_ADVICE}")
    return path


@cache
def _stand_in(wrong: str) -> Path:
    path = Path(tempfile.mkdtemp(prefix="plait-cache-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    if also := others_can_change(path):
        raise MachineError(f"{wrong}, and {also}: no directory can be used as a cache; {_ADVICE}")
    _LOGGER.warning("cache not used: %s; remove that access (chmod, chown) or %s", wrong, _ADVICE)
    return path

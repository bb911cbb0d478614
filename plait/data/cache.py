"""Where fetched packages, converted bases, compiled kernels and what was measured are kept between runs.

What lies there is loaded and believed, so it must be this user's alone (`plait.files.is_ours`). Where others can write
the cache, a directory of this process takes its place.
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
from plait.files import make_private_directory, others_can_change

VARIABLE = "PLAIT_CACHE"
_ADVICE = f"set {VARIABLE} to a directory of your own"
_LOGGER = logging.getLogger(__name__)


def cache_directory() -> Path:
    """The cache directory, made if it is missing: `PLAIT_CACHE` of the environment, or else the user's cache.

    Nobody but this user and root can put or change anything there. Where that is not so of the one that was chosen, it
    is left alone, which is said once, and a temporary directory serves until the process ends.

    Raises:
        MachineError: it cannot be made or written.
    """
    chosen = os.environ.get(VARIABLE)
    path = Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("plait", appauthor=False)
    try:
        make_private_directory(path)
        path = path.resolve()
        # Not all that lies below: whoever reads an entry looks at the whole of it.
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
        raise MachineError(f"{wrong}, and {also}: there is no place for a cache; {_ADVICE}")
    _LOGGER.warning("cache not used: %s; take that away (chmod, chown) or %s", wrong, _ADVICE)
    return path

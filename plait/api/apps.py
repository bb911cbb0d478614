"""Make the Flower App's packages, ``server`` and ``client``, importable as Flower does: from one folder on `sys.path`.

In a checkout that folder is the repository's root; in an installed wheel it is ``plait/_app``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import plait
from plait.errors import MachineError


def add_apps_to_path() -> None:
    """Make ``server`` and ``client`` importable without importing anything.

    Raises:
        MachineError: the installation lacks them.
    """
    package = Path(plait.__file__).parent
    for folder in (package / "_app", package.parent):
        if (folder / "server" / "app.py").is_file() and (folder / "client" / "app.py").is_file():
            # First, for `server` and `client` are names that other folders on the path may have too.
            sys.path[:] = [str(folder), *(place for place in sys.path if place != str(folder))]
            return
    raise MachineError(f"plait in '{package}' lacks its server and client apps; install it again")

"""Where the apps of peers lie that are run beside plait: whole programs in other projects' style, no part of plait."""

from __future__ import annotations

from pathlib import Path

import plait
from plait.errors import MachineError


def peer_folder(name: str, file: str) -> Path:
    """The folder of a peer: in a checkout among the simulations, in a wheel beside plait's own apps.

    Args:
        name: of the folder, below simulations/.
        file: one that must be in it.

    Raises:
        MachineError: the installation lacks it.
    """
    package = Path(plait.__file__).parent
    for folder in (package / "_app" / "peers" / name, package.parent / "simulations" / name):
        if (folder / file).is_file():
            return folder
    raise MachineError(f"plait in '{package}' lacks the peer '{name}'; install it again")

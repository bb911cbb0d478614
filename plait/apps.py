"""``server`` and ``client``, plait's packages: beside this one in a checkout, in its folder ``_app`` once installed."""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

from plait.errors import MachineError

_INSTALLED = Path(__file__).parent / "_app"
_ROOT = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[1]
_APPS = ("server", "client")


def bind_apps() -> None:
    """Let ``server`` and ``client`` be plait's own in this process, unimported; MachineError if others are loaded."""
    for name in _APPS:
        spec = PathFinder.find_spec(name, [str(_ROOT)])
        if spec is None or spec.loader is None:
            raise MachineError(f"plait in '{_ROOT}' lacks its package '{name}'; install it again")
        loaded = sys.modules.get(name)
        if loaded is None:
            sys.modules[name] = module_from_spec(spec)
            spec.loader.exec_module(sys.modules[name])
        elif loaded.__file__ != spec.origin:
            raise MachineError(
                f"this program has loaded '{loaded.__file__}' as '{name}', which is the name of a package of plait's; "
                "give it another name"
            )

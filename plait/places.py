"""Places: ``module:attribute`` as text; the module is imported when the attribute is first needed.

``server`` and ``client`` are plait's packages: beside this one in a checkout, in its folder ``_app`` once installed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from plait.errors import MachineError

_INSTALLED = Path(__file__).parent / "_app"
_ROOT = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[1]
_APPS = ("server", "client")
T = TypeVar("T")


def at(place: str) -> Any:
    """What is at a place.

    Raises:
        MachineError: it is in ``server`` or ``client``, and the program has loaded others of these names.
    """
    module, _, attribute = place.partition(":")
    if module.startswith(("server.", "client.")):
        bind_apps()
    return getattr(import_module(module), attribute)


def bind_apps() -> None:
    """Let ``server`` and ``client`` be plait's own in this process; their modules are not imported.

    Raises:
        MachineError: this installation lacks them, or the program has loaded others of the same names.
    """
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


class OnDemand(Mapping[str, T], Generic[T]):
    """A table of parts.

    Args:
        places: where each part is, ``module:NAME``, by the part's name.
    """

    def __init__(self, places: Mapping[str, str]) -> None:
        self.places = places

    def __getitem__(self, name: str) -> T:
        return cast("T", at(self.places[name]))

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def __contains__(self, name: object) -> bool:
        return name in self.places

    def __or__(self, others: OnDemand[T]) -> OnDemand[T]:
        """Both tables as one, in the order of names."""
        return OnDemand(dict(sorted({**self.places, **others.places}.items())))

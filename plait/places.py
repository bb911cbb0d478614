"""Places: ``module:attribute`` as text; the module is imported when the attribute is first needed."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def at(place: str) -> Any:
    """What is at a place.

    Raises:
        MachineError: it is in ``server`` or ``client``, and the program has loaded others of these names.
    """
    module, _, attribute = place.partition(":")
    if module.startswith(("server.", "client.")):
        import_module("plait.apps").bind_apps()
    return getattr(import_module(module), attribute)

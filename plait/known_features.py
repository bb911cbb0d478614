"""The features that this process knows: plait's own, and outsiders' that its operator named.

A run that asks for no feature loads none: declarations are read where a setting, verb, event or name is met that the
core does not know, and for help. A name that came from elsewhere (a ledger, a welcome, a directory) finds plait's own
features, and those of outsiders only if this process's operator has named them (`admit_setting`).
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from plait.places import at
from plait.plugins import Kind, installed

if TYPE_CHECKING:
    from plait.feature import Feature


@cache
def own_features() -> Mapping[str, Feature]:
    """Plait's own, by name: a folder is enough, so that a checkout and Flower's bundle have them as an installation."""
    folder = Path(__file__).parent / "features"
    names = sorted(module.name for module in pkgutil.iter_modules([str(folder)]) if module.ispkg)
    return {name: at(f"plait.features.{name}:FEATURE") for name in names}


def features(*, all_installed: bool = False) -> tuple[Feature, ...]:
    """Plait's own features, and those of outsiders that this process's operator has named.

    Args:
        all_installed: whether the other installed ones too, as for help that the operator asks for.

    Raises:
        ConfigError: one cannot be imported, or its declaration is not valid.
    """
    names = sorted(installed(Kind.FEATURE)) if all_installed else _named
    return (*own_features().values(), *map(at("plait.feature:of_outsider"), names))


def feature_with(
    what: Literal[
        "fields",
        "welcomed",
        "parts",
        "objectives",
        "optimizers",
        "contracts",
        "verbs",
        "names",
        "events",
        "messages",
        "replies",
    ],
    name: str,
    *,
    all_installed: bool = False,
) -> Feature | None:
    """The feature among `features` that has something of this name: a setting, verb, public name, event or message."""
    return next((each for each in features(all_installed=all_installed) if name in getattr(each, what)), None)


def fields_of_table(name: str) -> tuple[str, ...]:
    """The settings of features in the table of this name; none if there is no such table."""
    return tuple(field for each in features() if each.table and each.table.table == name for field in each.fields)


def admit_setting(key: str) -> None:
    """Allow the feature of an outsider's that has a setting, because this process's operator gave that setting.

    Args:
        key: of a setting or table, as users write it, that neither the core nor plait's own features have.
    """
    if (name := _outsider_of(key)) and name not in _named:
        _named.append(name)


def why_unknown(key: str) -> str:
    """Why a setting is not known although an installed feature has it; empty if none has."""
    if not (name := _outsider_of(key)):
        return ""
    package = installed(Kind.FEATURE)[name]
    return f"'{key}' is a setting of the feature '{name}' of {package}, which this machine's operator did not name"


# Outsiders' features that this process's operator has named, in that order.
_named: list[str] = []


def _outsider_of(key: str) -> str:
    """The installed feature whose setting or table this could be, judged by its name alone; empty if there is none."""
    key = key.replace("_", "-")
    fitting = [name for name in installed(Kind.FEATURE) if key == name or key.startswith(f"{name}-")]
    return max(fitting, key=len, default="")

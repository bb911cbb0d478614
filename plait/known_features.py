"""The features of plait.

A run that asks for no feature loads none: declarations are read where a setting, verb, event or name is met that the
core does not know, and for help.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from plait.places import at

if TYPE_CHECKING:
    from plait.feature import Feature


@cache
def own_features() -> Mapping[str, Feature]:
    """Plait's own, by name: a folder is enough, so that a checkout and Flower's bundle have them as an installation."""
    folder = Path(__file__).parent / "features"
    names = sorted(module.name for module in pkgutil.iter_modules([str(folder)]) if module.ispkg)
    return {name: at(f"plait.features.{name}:FEATURE") for name in names}


def features() -> tuple[Feature, ...]:
    """All of them."""
    return tuple(own_features().values())


def feature_with(
    what: Literal[
        "fields",
        "welcomed",
        "objectives",
        "contracts",
        "verbs",
        "names",
        "events",
        "messages",
        "replies",
    ],
    name: str,
) -> Feature | None:
    """The feature among `features` that has something of this name: a setting, verb, public name, event or message."""
    return next((each for each in features() if name in getattr(each, what)), None)


def fields_of_table(name: str) -> tuple[str, ...]:
    """The settings of features in the table of this name; none if there is no such table."""
    return tuple(field for each in features() if each.table and each.table.table == name for field in each.fields)

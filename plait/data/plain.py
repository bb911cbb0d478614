"""Values of Python, numpy, pandas and Arrow as the plain ones that JSON has."""

from __future__ import annotations

import datetime as dt
import decimal
import uuid
from collections.abc import Mapping
from typing import cast


def plain(value: object) -> object:
    """The value as text, number, boolean, None, list or mapping; None for bytes and whatever has no plain form.

    A missing value of pandas or numpy (NaN, NaT, NA) is None.
    """
    match value:
        case None | bool() | str():
            return value
        case int():
            return int(value)
        case float():
            return None if value != value else float(value)
        case Mapping():
            items = cast("Mapping[object, object]", value).items()
            return {str(name): plain(item) for name, item in items}
        case list() | tuple():
            return [plain(item) for item in cast("list[object]", value)]
        case dt.date() | dt.time():
            text = value.isoformat()
            return None if text == "NaT" else text
        case dt.timedelta() | decimal.Decimal() | uuid.UUID():
            text = str(value)
            return None if text == "NaT" else text
        case _:
            return _array(value)


def _array(value: object) -> object:
    """An array or a scalar of numpy or a tensor; None for anything else."""
    to_list = getattr(value, "tolist", None)
    if not callable(to_list):
        return None
    found = to_list()
    return None if found is value else plain(found)

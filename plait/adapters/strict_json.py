"""JSON from outside: bounded, one object, no duplicate keys, no NaN; anything else is a PeerError.

Knows nothing of what the objects mean; callers still check every type that they rely on.
"""

from __future__ import annotations

import json
import reprlib
from typing import NoReturn

from plait.adapters.spec import Json
from plait.errors import PeerError

MAX_DEPTH = 32

_shown = reprlib.Repr()
_shown.maxstring = _shown.maxother = 80


def shown(value: object) -> str:
    """`value` for an error message: a short `repr`, without control characters and of bounded length."""
    return _shown.repr(value)


def parse_object(data: bytes, *, what: str, max_bytes: int) -> dict[str, Json]:
    """The JSON object in `data`.

    Args:
        data: UTF-8 text.

    Raises:
        PeerError: too large, not UTF-8, not JSON, not an object, a duplicate key, NaN or Infinity, or nested deeper
            than `MAX_DEPTH`.
    """
    if len(data) > max_bytes:
        raise PeerError(f"{what} has {len(data)} bytes, expected at most {max_bytes}")

    def refuse_constant(constant: str) -> NoReturn:
        raise PeerError(f"{what} holds {constant}, expected finite numbers")

    def unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
        built: dict[str, Json] = {}
        for key, value in pairs:
            if key in built:
                raise PeerError(f"{what} gives key {shown(key)} twice, expected each key once")
            built[key] = value
        return built

    try:
        parsed: Json = json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse_constant)
    except UnicodeDecodeError as error:
        raise PeerError(f"{what} is not UTF-8 at byte {error.start}, expected UTF-8 JSON") from error
    except RecursionError as error:
        raise PeerError(f"{what} is nested too deep, expected at most {MAX_DEPTH} levels") from error
    except ValueError as error:
        # The decoder's own message quotes no text, only line and column.
        raise PeerError(f"{what} is not JSON ({error}), expected one JSON object") from error
    if not isinstance(parsed, dict):
        raise PeerError(f"{what} holds {shown(parsed)}, expected a JSON object")
    if _deeper_than(parsed, MAX_DEPTH):
        raise PeerError(f"{what} is nested too deep, expected at most {MAX_DEPTH} levels")
    return parsed


def _deeper_than(value: Json, limit: int) -> bool:
    # Level by level instead of recursively: the input decides the depth.
    level: list[Json] = [value]
    for _ in range(limit):
        children: list[Json] = []
        for item in level:
            if isinstance(item, dict):
                children.extend(item.values())
            elif isinstance(item, list):
                children.extend(item)
        level = children
        if not level:
            return False
    return any(isinstance(item, (dict, list)) for item in level)

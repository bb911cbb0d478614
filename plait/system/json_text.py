"""JSON and TOML that came from a file or a peer: a text that is none, or nests too deep, is a ValueError and no other.

The standard library's readers end a deep text in a RecursionError, and what they accept may end their caller in one.
Knows nothing of the values' meaning.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterable
from typing import Any, cast

MAX_DEPTH = 64
"""Objects and lists within each other; what plait reads and writes has a quarter of it."""


def read_json(
    data: bytes | str,
    *,
    most: int = MAX_DEPTH,
    pairs: Callable[[list[tuple[str, Any]]], object] | None = None,
    constant: Callable[[str], object] | None = None,
) -> object:
    """The value of a JSON text.

    Args:
        pairs: makes an object of its keys and values.
        constant: makes a value of NaN or an infinity.

    Raises:
        ValueError: it is none, or nested deeper than `most`.
    """
    try:
        value: object = json.loads(data, object_pairs_hook=pairs, parse_constant=constant)
    except RecursionError:
        raise _too_deep(most) from None
    opened = data.count(b"[") + data.count(b"{") if isinstance(data, bytes) else data.count("[") + data.count("{")
    if opened > most:
        _check(value, most)
    return value


def read_toml(data: bytes) -> dict[str, object]:
    """The table of a TOML text in UTF-8; ValueError if it is none, or nested too deep."""
    try:
        table = tomllib.loads(data.decode())
    except RecursionError:
        raise _too_deep(MAX_DEPTH) from None
    _check(table, MAX_DEPTH)
    return table


def _check(value: object, most: int) -> None:
    # Level by level instead of recursively: the text decides the depth.
    level: list[object] = [value]
    for _ in range(most):
        level = [child for each in level for child in _children(each)]
    if any(isinstance(each, dict | list) for each in level):
        raise _too_deep(most)


def _children(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return cast("dict[str, object]", value).values()
    return cast("list[object]", value) if isinstance(value, list) else ()


def _too_deep(most: int) -> ValueError:
    return ValueError(f"nested deeper than {most} levels")

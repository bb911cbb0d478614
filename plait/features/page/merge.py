"""JSON merge patches (RFC 7396): the changes that a page is sent. Knows nothing of runs."""

from __future__ import annotations

from collections.abc import Mapping

from plait.adapters import Json

Patch = dict[str, Json]
"""What changes in an object: null removes a key, an object is merged into the one there, all else replaces."""


def merge(document: dict[str, Json], patch: Patch) -> None:
    """Apply a patch to `document`, in place; the patch itself is not kept."""
    for key, value in patch.items():
        if value is None:
            document.pop(key, None)
        elif isinstance(value, dict):
            inner = document.get(key)
            if not isinstance(inner, dict):
                inner = document[key] = {}
            merge(inner, value)
        else:
            document[key] = value


def join(first: Patch, second: Patch) -> Patch:
    """One patch that does what both do, one after the other; it may share objects with them."""
    joined = dict(first)
    for key, value in second.items():
        there = joined.get(key)
        joined[key] = join(there, value) if isinstance(value, dict) and isinstance(there, dict) else value
    return joined


def difference(document: Mapping[str, Json], wanted: Patch) -> Patch:
    """The part of a patch that changes something in `document`."""
    found: Patch = {}
    for key, value in wanted.items():
        there = document.get(key)
        if isinstance(value, dict):
            inner = difference(there if isinstance(there, dict) else {}, value)
            if inner or there is None:
                found[key] = inner
        elif value != there:
            found[key] = value
    return found

"""A change of the base, as sent (in a layout known except for the numbers of columns) and as a client keeps it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast

import numpy as np

from plait.adapters import AdapterState, Layout
from plait.aggregation import BaseDelta, Geometry, LowRank
from plait.errors import PeerError
from plait.rounds.client_state import Kept
from plait.rounds.moved_base import UNMOVED, MovedBase

_MOST_COLUMNS = 1 << 20


def whole_base(state: AdapterState, geometry: Geometry, digest: bytes) -> MovedBase:
    """A moved base that the server sent whole, under its digest."""
    return MovedBase(delta_of(state, geometry), digest)


def packed(delta: BaseDelta, geometry: Geometry) -> tuple[AdapterState, str]:
    """A change of the base as an adapter-like buffer, and the text that describes its layout."""
    columns = [_factors(delta, pair.module).columns if pair.module in delta.factors else 0 for pair in geometry.pairs]
    layout = base_layout(geometry, columns)
    flat = np.empty(layout.size, np.float32)
    for pair in geometry.pairs:
        if pair.module not in delta.factors:
            continue
        factors = _factors(delta, pair.module)
        for name, values in ((f"{pair.module}.a", factors.a), (f"{pair.module}.b", factors.b)):
            if values.size:
                slot = layout.by_name[name]
                flat[slot.offset : slot.offset + slot.size] = values.reshape(-1)
    return AdapterState(layout, flat), columns_text(columns)


def columns_text(columns: list[int]) -> str:
    """The numbers of columns, in the order of the pairs, as sent: one number if all are equal."""
    return json.dumps({"columns": columns[0] if len(set(columns)) == 1 else columns}, separators=(",", ":"))


def layout_from_text(text: str, geometry: Geometry) -> Layout:
    """The layout described by a base envelope's text.

    Raises:
        PeerError: it describes none, or more columns than such weights can have.
    """
    try:
        stated = cast("object", json.loads(text))
    except (ValueError, RecursionError) as error:
        raise PeerError(f"layout of the base's change is not valid: {error}") from error
    columns = cast("Mapping[str, object]", stated).get("columns") if isinstance(stated, dict) else None
    if isinstance(columns, int) and not isinstance(columns, bool):
        columns = [columns] * len(geometry.pairs)
    if not isinstance(columns, list) or len(cast("list[object]", columns)) != len(geometry.pairs):
        raise PeerError(f"layout of the base's change states no columns for each of {len(geometry.pairs)} modules")
    checked: list[int] = []
    for pair, count in zip(geometry.pairs, cast("list[object]", columns), strict=True):
        most = min(pair.d_in, pair.d_out, _MOST_COLUMNS)
        if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= most:
            raise PeerError(f"base of '{pair.module}' moves by {count!r} columns, expected 0 to {most}")
        checked.append(count)
    return base_layout(geometry, checked)


def base_layout(geometry: Geometry, columns: list[int]) -> Layout:
    """The layout of a change: per module ``<module>.a`` (columns, d_in) and ``<module>.b`` (d_out, columns)."""
    shapes: dict[str, tuple[int, int]] = {}
    for pair, count in zip(geometry.pairs, columns, strict=True):
        if count:
            shapes[f"{pair.module}.a"] = (count, pair.d_in)
            shapes[f"{pair.module}.b"] = (pair.d_out, count)
    return Layout.of(shapes)


def kept_base(base: MovedBase, geometry: Geometry) -> Kept:
    """A moved base as stored by a client."""
    state, text = packed(base.delta, geometry)
    return Kept(arrays={"factors": state.flat}, tags={"columns": text, "digest": base.digest.hex()})


def base_of(kept: Kept, geometry: Geometry) -> MovedBase:
    """The inverse of `kept_base`; an unmoved base if it is lost or of another adapter."""
    try:
        layout = layout_from_text(kept.tags.get("columns", ""), geometry)
        digest = bytes.fromhex(kept.tags.get("digest", ""))
    except (PeerError, ValueError):
        return UNMOVED
    flat = kept.vector("factors", layout.size)
    return UNMOVED if flat is None else whole_base(AdapterState(layout, flat), geometry, digest)


def delta_of(state: AdapterState, geometry: Geometry) -> BaseDelta:
    """The inverse of `packed`."""
    names = state.layout.by_name
    return BaseDelta(
        {
            pair.module: LowRank(
                state[f"{pair.module}.b"].astype(np.float64), state[f"{pair.module}.a"].astype(np.float64)
            )
            for pair in geometry.pairs
            if f"{pair.module}.a" in names
        }
    )


def _factors(delta: BaseDelta, module: str) -> LowRank:
    # More columns than the weight's rank add nothing.
    return delta.factors[module].fitted()

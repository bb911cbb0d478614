"""The side of every low-rank pair that stays at a client and is its own (FedSA-LoRA's B).

It is never sent: a client puts its own in place of the broadcast's before it works, and leaves it out of its delta.
"""

from __future__ import annotations

import numpy as np

from plait.adapters import AdapterState
from plait.aggregation import Geometry, Side


def with_own(state: AdapterState, own: bytes, geometry: Geometry, side: Side) -> AdapterState:
    """`state` with the client's own side in it; unchanged where the client has none yet.

    Args:
        state: as it was broadcast.
        own: what `own_bytes` kept.
        geometry: of the adapter.
        side: which one is personal.
    """
    if len(own) != 4 * geometry.side_size(side):
        return state
    flat = state.flat.copy()
    values = np.frombuffer(own, "<f4").astype(np.float32)
    at = 0
    for pair in geometry.pairs:
        slot = pair.slot(side)
        flat[slot.offset : slot.offset + slot.size] = values[at : at + slot.size]
        at += slot.size
    return AdapterState(state.layout, flat)


def own_bytes(state: AdapterState, geometry: Geometry, side: Side) -> bytes:
    """The client's own side of an adapter, for its memory."""
    slots = [pair.slot(side) for pair in geometry.pairs]
    return np.concatenate([state.flat[slot.offset : slot.offset + slot.size] for slot in slots]).astype("<f4").tobytes()


def without(delta: AdapterState, geometry: Geometry, side: Side) -> AdapterState:
    """A delta in which one side is zero."""
    flat = delta.flat.copy()
    for pair in geometry.pairs:
        slot = pair.slot(side)
        flat[slot.offset : slot.offset + slot.size] = 0.0
    return AdapterState(delta.layout, flat)

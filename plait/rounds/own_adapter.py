"""The adapter that a client keeps for itself beside the shared one (`--own-share`).

Every client has a model of its own between the shared one and where its own steps alone would lead, as in Hanzely and
Richtárik, "Federated Learning of a Mixture of Global and Local Models", arXiv 2002.05516. All rounds begin at the
shared adapter but the last one, which each client begins at its own. So both are to be had at the steps and bytes of
one: what a client sends is what its training moved, and the server does what it always does.

A client keeps how far its own steps lead away from the shared adapter. In every round its step is added and what was
there fades, for the steps of earlier rounds answered to an adapter that has moved on since.
"""

from __future__ import annotations

import struct

import numpy as np

from plait.adapters import AdapterState, Float32
from plait.wire.settings import Settings

# How much of it is left after a round; with less or more a client's own adapter is worth less (simulations/LOG.md).
_LASTS = 0.7
_SHARE = struct.Struct("<d")


def share_at_start(settings: Settings) -> float:
    """How far towards its own adapter a client begins this round: not at all before the last one."""
    is_last = settings.done_steps + settings.local_steps >= settings.total_steps
    return settings.own_share if is_last else 0.0


def own_adapter(shared: AdapterState, kept: bytes, share: float) -> AdapterState:
    """A client's own adapter.

    Args:
        shared: as it was broadcast.
        kept: what `own_adapter_bytes` made; the shared one alone counts where there is none yet.
        share: 0 (the shared one) to 1 (as far as the client's own steps lead).
    """
    found = read_own_adapter(kept, shared.layout.size)
    if found is None or not share:
        return shared
    step = np.float32(share) * (found[1] - shared.flat)
    return AdapterState(shared.layout, (shared.flat + step).astype(np.float32))


def own_lead(after: AdapterState, shared: AdapterState, kept: bytes, settings: Settings) -> AdapterState:
    """Where a client's own steps lead after a round.

    Args:
        after: the adapter as the round left it.
        shared: as it was broadcast for the round.
        kept: what the client kept before the round.
        settings: of the round.
    """
    found = read_own_adapter(kept, shared.layout.size)
    if found is None:
        return after
    rest = np.float32(max(0.0, _LASTS - share_at_start(settings))) * (found[1] - shared.flat)
    return AdapterState(after.layout, (after.flat + rest).astype(np.float32))


def own_adapter_bytes(lead: AdapterState, share: float) -> bytes:
    """Where a client's own steps lead, for its memory, with the share that counts of it."""
    return _SHARE.pack(share) + lead.flat.astype("<f4").tobytes()


def read_own_adapter(kept: bytes, size: int) -> tuple[float, Float32] | None:
    """(share, values) of what `own_adapter_bytes` made of an adapter of this size; None for anything else."""
    if len(kept) != _SHARE.size + 4 * size:
        return None
    return _SHARE.unpack_from(kept)[0], np.frombuffer(kept, "<f4", offset=_SHARE.size).astype(np.float32)

"""The adapter that a client keeps for itself, where it goes on from its own in part (`--own-share`).

Hanzely and Richtárik, "Federated Learning of a Mixture of Global and Local Models", arXiv 2002.05516: every client has
a model of its own and is drawn a part of the way to the mean. Here that happens at the start of a round; what a client
sends is what its training moved, so the server does what it always does and the shared adapter is the mean of theirs.
"""

from __future__ import annotations

import struct

import numpy as np

from plait.adapters import AdapterState, Float32

_SHARE = struct.Struct("<d")


def own_start(shared: AdapterState, kept: bytes, share: float) -> AdapterState:
    """Where a client's round starts: `share` of its own adapter and the rest of the shared one.

    Args:
        shared: as it was broadcast.
        kept: what `own_adapter_bytes` made; the shared one alone counts where there is none yet.
        share: 0 to 1.
    """
    found = read_own_adapter(kept, shared.layout.size)
    if found is None:
        return shared
    step = np.float32(share) * (found[1] - shared.flat)
    return AdapterState(shared.layout, (shared.flat + step).astype(np.float32))


def own_adapter_bytes(after: AdapterState, share: float) -> bytes:
    """A client's adapter after its training, for its memory, with the share that counts of it."""
    return _SHARE.pack(share) + after.flat.astype("<f4").tobytes()


def read_own_adapter(kept: bytes, size: int) -> tuple[float, Float32] | None:
    """(share, values) of what `own_adapter_bytes` made of an adapter of this size; None for anything else."""
    if len(kept) != _SHARE.size + 4 * size:
        return None
    return _SHARE.unpack_from(kept)[0], np.frombuffer(kept, "<f4", offset=_SHARE.size).astype(np.float32)

"""The personal side of every low-rank pair, which stays at the client.

Guo et al., "Selective Aggregation for Low-Rank Adaptation in Federated Learning" (FedSA-LoRA), arXiv 2410.01463, where
B is personal. The side is never sent: a client replaces the broadcast's side by its own before training, and leaves it
out of its delta.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from plait.adapters import AdapterState, Float32
from plait.aggregation import Geometry, Side, geometry_of
from plait.rounds.client_state import Kept
from plait.rounds.hook import Outgoing
from plait.rounds.local_model import TrainJob
from plait.wire.settings import Settings

OWN_SIDE = "own side"
"""Key of this hook's value."""


@dataclass(frozen=True)
class OwnSide:
    """The hook: training starts from the client's own side, which is not sent."""

    key = "own"

    def applies(self, settings: Settings) -> bool:
        """Active if a side is personal."""
        return bool(settings.personal)

    def before(self, job: TrainJob, kept: Kept) -> TrainJob:
        """Start from the own side."""
        return replace(job, start=with_own(job.start, kept, geometry_of(job.spec), Side(job.settings.personal)))

    def after(self, job: TrainJob, kept: Kept, outgoing: Outgoing) -> tuple[Outgoing, Kept]:
        """Keep the side and leave it out of the delta."""
        del kept
        geometry, side = geometry_of(job.spec), Side(job.settings.personal)
        left = kept_side(outgoing.trained.state, geometry, side)
        return replace(outgoing, delta=without(outgoing.delta, geometry, side)), left


def with_own(state: AdapterState, kept: Kept, geometry: Geometry, side: Side) -> AdapterState:
    """`state` with the client's own side; unchanged if it has none yet."""
    values = kept.vector("side", geometry.side_size(side))
    if values is None:
        return state
    flat = state.flat.copy()
    at = 0
    for pair in geometry.pairs:
        slot = pair.slot(side)
        flat[slot.offset : slot.offset + slot.size] = values[at : at + slot.size]
        at += slot.size
    return AdapterState(state.layout, flat)


def kept_side(state: AdapterState, geometry: Geometry, side: Side) -> Kept:
    """The client's own side of an adapter, pair by pair, as stored."""
    slots = [pair.slot(side) for pair in geometry.pairs]
    values: Float32 = np.concatenate([state.flat[slot.offset : slot.offset + slot.size] for slot in slots])
    return Kept(arrays={"side": values}, tags={"kind": OWN_SIDE, "side": side.value})


def without(delta: AdapterState, geometry: Geometry, side: Side) -> AdapterState:
    """A delta with one side set to zero."""
    flat = delta.flat.copy()
    for pair in geometry.pairs:
        slot = pair.slot(side)
        flat[slot.offset : slot.offset + slot.size] = 0.0
    return AdapterState(delta.layout, flat)

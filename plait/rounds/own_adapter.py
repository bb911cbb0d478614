"""A client's personalized adapter, which it keeps beside the shared one (`--own-share`).

Every client has a model between the shared one and the point where its own steps alone would lead, as in Hanzely and
Richtárik, "Federated Learning of a Mixture of Global and Local Models", arXiv 2002.05516. All rounds start from the
shared adapter except the last, which each client starts on the way to its own. So both adapters cost the steps and
bytes of one: a client sends the change made by its training, and the server aggregates as usual. To start a seventh of
the way there costs the shared adapter much less than to start at the client's own.

A client accumulates the direction of its own steps away from the shared adapter. Every round adds a step to the sum and
decays it, because the steps of earlier rounds started from an adapter that has moved on since.

The personal side of every low-rank pair, which stays at the client.

Guo et al., "Selective Aggregation for Low-Rank Adaptation in Federated Learning" (FedSA-LoRA), arXiv 2410.01463, where
B is personal. The side is never sent: a client replaces the broadcast's side by its own before training, and leaves it
out of its delta.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from plait.adapters import AdapterState, Float32
from plait.aggregation import Geometry, Side, geometry_of
from plait.rounds.hook import Outgoing
from plait.rounds.local_model import TrainJob
from plait.rounds.memory import Kept
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


OWN_ADAPTER = "own adapter"
"""Key of this hook's value."""

# Decay per round; with other values a personalized adapter is worse (simulations/LOG.md).
_LASTS = 0.7

# Part of the way to a client's own adapter from which its last round starts. Figures: `simulations/defaults`.
_STARTS = 1 / 7


@dataclass(frozen=True)
class OwnShare:
    """The hook: the last round starts on the way to the personalized adapter, and every round updates it."""

    key = "own"

    def applies(self, settings: Settings) -> bool:
        """Active if clients have personalized adapters and no side of the shared one is personal."""
        return bool(settings.own_share) and not settings.personal

    def before(self, job: TrainJob, kept: Kept) -> TrainJob:
        """Start the last round on the way to the personalized adapter."""
        return replace(job, start=own_adapter(job.start, kept, share_at_start(job.settings)))

    def after(self, job: TrainJob, kept: Kept, outgoing: Outgoing) -> tuple[Outgoing, Kept]:
        """Keep the direction of the client's own steps."""
        lead = own_lead(outgoing.trained.state, job.received, kept, job.settings)
        return outgoing, kept_lead(lead, job.settings.own_share)


def share_at_start(settings: Settings) -> float:
    """Weight of the client's own direction in the adapter that a round starts from: 0 before the last round."""
    is_last = settings.done_steps + settings.local_steps >= settings.total_steps
    return _STARTS * settings.own_share if is_last else 0.0


def share_measured(settings: Settings) -> float:
    """Weight of the client's own direction in an evaluated personalized adapter; 0 before the last round is over."""
    return settings.own_share if settings.done_steps >= settings.total_steps else 0.0


def own_adapter(shared: AdapterState, kept: Kept, share: float) -> AdapterState:
    """A client's personalized adapter; the shared one if it has none yet.

    Args:
        share: 0 (the shared one) to 1 (as far as the client's own steps lead).
    """
    lead = kept.vector("lead", shared.layout.size)
    if lead is None or not share:
        return shared
    step = np.float32(share) * (lead - shared.flat)
    return AdapterState(shared.layout, (shared.flat + step).astype(np.float32))


def own_lead(after: AdapterState, shared: AdapterState, kept: Kept, settings: Settings) -> AdapterState:
    """The point where a client's own steps lead after a round.

    Args:
        after: the adapter at the end of the round.
    """
    lead = kept.vector("lead", shared.layout.size)
    if lead is None:
        return after
    rest = np.float32(max(0.0, _LASTS - share_at_start(settings))) * (lead - shared.flat)
    return AdapterState(after.layout, (after.flat + rest).astype(np.float32))


def kept_lead(lead: AdapterState, share: float) -> Kept:
    """The point where a client's own steps lead, and the share, as stored."""
    return Kept(arrays={"lead": lead.flat}, tags={"kind": OWN_ADAPTER, "share": repr(share)})

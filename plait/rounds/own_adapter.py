"""The adapter that a client keeps for itself beside the shared one (`--own-share`).

Every client has a model of its own between the shared one and where its own steps alone would lead, as in Hanzely and
Richtárik, "Federated Learning of a Mixture of Global and Local Models", arXiv 2002.05516. All rounds begin at the
shared adapter but the last one, which each client begins at its own. So both cost the steps and bytes of one: a client
sends what its training moved, and the server does what it always does.

A client keeps how far its own steps lead away from the shared adapter. In every round its step is added and what was
there fades, because the steps of earlier rounds started from an adapter that has moved on since.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from plait.adapters import AdapterState
from plait.rounds.client_state import Kept
from plait.rounds.hook import Outgoing
from plait.rounds.local_model import TrainJob
from plait.wire.settings import Settings

OWN_ADAPTER = "own adapter"
"""The kind of what this hook keeps."""

# How much of it is left after a round; with less or more a client's own adapter is worth less (simulations/LOG.md).
_LASTS = 0.7


@dataclass(frozen=True)
class OwnShare:
    """The hook: the last round starts from the client's own adapter, and every round moves that."""

    key = "own"

    def applies(self, settings: Settings) -> bool:
        """Where clients have adapters of their own, and no side of the shared one is personal."""
        return bool(settings.own_share) and not settings.personal

    def before(self, job: TrainJob, kept: Kept) -> TrainJob:
        """Start the last round from the own adapter."""
        return replace(job, start=own_adapter(job.start, kept, share_at_start(job.settings)))

    def after(self, job: TrainJob, kept: Kept, outgoing: Outgoing) -> tuple[Outgoing, Kept]:
        """Keep where the client's own steps lead."""
        lead = own_lead(outgoing.trained.state, job.received, kept, job.settings)
        return outgoing, kept_lead(lead, job.settings.own_share)


def share_at_start(settings: Settings) -> float:
    """How far towards its own adapter a client begins this round: not at all before the last one."""
    is_last = settings.done_steps + settings.local_steps >= settings.total_steps
    return settings.own_share if is_last else 0.0


def share_measured(settings: Settings) -> float:
    """How far from the shared adapter the own one is that a client measures: none before the last round is over."""
    return settings.own_share if settings.done_steps >= settings.total_steps else 0.0


def own_adapter(shared: AdapterState, kept: Kept, share: float) -> AdapterState:
    """A client's own adapter; the shared one where the client has none yet.

    Args:
        shared: as it was broadcast.
        kept: what `kept_lead` made.
        share: 0 (the shared one) to 1 (as far as the client's own steps lead).
    """
    lead = kept.vector("lead", shared.layout.size)
    if lead is None or not share:
        return shared
    step = np.float32(share) * (lead - shared.flat)
    return AdapterState(shared.layout, (shared.flat + step).astype(np.float32))


def own_lead(after: AdapterState, shared: AdapterState, kept: Kept, settings: Settings) -> AdapterState:
    """Where a client's own steps lead after a round.

    Args:
        after: the adapter as the round left it.
        shared: as it was broadcast for the round.
        kept: what the client kept before the round.
        settings: of the round.
    """
    lead = kept.vector("lead", shared.layout.size)
    if lead is None:
        return after
    rest = np.float32(max(0.0, _LASTS - share_at_start(settings))) * (lead - shared.flat)
    return AdapterState(after.layout, (after.flat + rest).astype(np.float32))


def kept_lead(lead: AdapterState, share: float) -> Kept:
    """Where a client's own steps lead, with the share that counts of it, as it is kept."""
    return Kept(arrays={"lead": lead.flat}, tags={"kind": OWN_ADAPTER, "share": repr(share)})

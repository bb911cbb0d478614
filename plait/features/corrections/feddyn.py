"""The clients' part of FedDyn: a regulariser that follows the rounds, so that local optima agree with the global one.

Acar et al., arXiv 2111.04263, algorithm 1: a client minimises L(w) - <h, w> + alpha/2 ||w - w0||^2 from the received
adapter w0, and then keeps h <- h - alpha (w - w0), the gradient of its own loss where it stopped; h is 0 at first. The
last term is that of `plait.training.proximal`, the server's part `server_step.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from plait.rounds.client_state import Kept
from plait.rounds.hook import Outgoing
from plait.rounds.local_model import TrainJob
from plait.wire.settings import Settings


@dataclass(frozen=True)
class FedDyn:
    """The hook: the kept gradient goes into training, and what training moved goes into it."""

    key = "drift"

    def applies(self, settings: Settings) -> bool:
        """Active where alpha is not 0."""
        return settings.feddyn > 0

    def before(self, job: TrainJob, kept: Kept) -> TrainJob:
        """Add the kept gradient to the job; training subtracts it from the gradient of every step."""
        return replace(job, carried=replace(job.carried, slope=kept.vector("slope", job.received.layout.size)))

    def after(self, job: TrainJob, kept: Kept, outgoing: Outgoing) -> tuple[Outgoing, Kept]:
        """Keep the gradient at the adapter that training ended with."""
        moved = outgoing.trained.state.flat - job.received.flat
        slope = kept.vector("slope", job.received.layout.size)
        after = -np.float32(job.settings.feddyn) * moved
        return outgoing, Kept(arrays={"slope": after if slope is None else slope + after})

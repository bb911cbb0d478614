"""The slope of a client's loss along the adapter's last movement, where that movement ended.

It is the gradient of the client's first batch times the movement, so it costs no pass through the model: negative where
a longer step of the server would have lowered the loss further, positive beyond the minimum. A client remembers the
adapter that it received in the round before. The server's part is `plait.aggregation.server_step`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from plait.rounds.client_state import Kept
from plait.rounds.hook import Outgoing
from plait.rounds.local_model import TrainJob
from plait.wire.settings import Settings


@dataclass(frozen=True)
class Slope:
    """The hook: training is told the last movement, and measures the slope along it."""

    key = "slope"

    def applies(self, settings: Settings) -> bool:
        """Active if the server's step follows the slope."""
        return settings.measures_slope

    def before(self, job: TrainJob, kept: Kept) -> TrainJob:
        """Pass on the movement, except where training begins elsewhere or the client was away in the round before."""
        received = kept.vector("received", job.received.layout.size)
        if received is None or kept.round != job.settings.round - 1 or job.start is not job.received:
            return job
        movement = job.received.flat - received
        return replace(job, carried=replace(job.carried, movement=movement))

    def after(self, job: TrainJob, kept: Kept, outgoing: Outgoing) -> tuple[Outgoing, Kept]:
        """Keep the adapter that was received."""
        del kept
        return outgoing, Kept(arrays={"received": job.received.flat})

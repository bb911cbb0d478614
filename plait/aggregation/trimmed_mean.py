"""The coordinate-wise trimmed mean of the deltas.

Yin et al., arXiv 1803.01498, definition 2: in every element the largest and the smallest share of the clients' values
are left out and the rest is averaged, without weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from plait.adapters import Subject
from plait.aggregation.round import Outcome, RoundContext
from plait.aggregation.rule import Rule
from plait.aggregation.stacked import Stacked


@dataclass(frozen=True)
class TrimmedMean:
    """The mean of the middle values of each element; of few clients at least one is left out if that leaves any."""

    share: Annotated[float, Field(ge=0, lt=0.5, description="share of the clients to leave out at either end")] = 0.2

    def __call__(self, context: RoundContext) -> Stacked:
        """Begin a round."""
        return Stacked(context, self._combine)

    def _combine(self, stacked: Stacked) -> Outcome:
        clients = len(stacked.deltas)
        cut = min(max(1, int(self.share * clients)) if self.share else 0, (clients - 1) // 2)
        flat = np.empty(stacked.context.geometry.layout.size)
        for part, values in stacked.blocks():
            values.sort(axis=0)
            flat[part] = values[cut : clients - cut].mean(axis=0)
        return stacked.outcome(flat, trimmed_clients=float(2 * cut))


TRIMMED_MEAN = Rule(
    name="trimmed_mean",
    title="coordinate-wise trimmed mean (arXiv 1803.01498)",
    computes="mean of every element of B and A separately, without a share of values at each end; weights are ignored",
    algorithm=TrimmedMean(),
    subject=Subject.TENSORS,
    needs_all=True,
    least_clients=3,
)

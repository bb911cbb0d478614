"""The mean of the clients' trained A, which new factors stay close to.

Rules that re-factor a product choose its factors by it (`projection.factored`). The A that was sent to clients would do
for small steps only: the change of the clients' A would be missing from the new A and be compensated in B, and at high
learning rates the two diverge in size until training breaks.
"""

from __future__ import annotations

import numpy as np

from plait.aggregation.contribution import Contribution
from plait.aggregation.geometry import Pair
from plait.aggregation.low_rank import Float64
from plait.aggregation.round import RoundContext
from plait.aggregation.weighted_sum import WeightedSum


class MeanA:
    """Accumulates over the clients whose adapter has the master's layout; the others' A has another shape."""

    def __init__(self, context: RoundContext) -> None:
        self._context = context
        self._deltas = WeightedSum(context.geometry.layout.size)

    def add(self, contribution: Contribution) -> None:
        """Add one client's A; the caller has checked it."""
        if contribution.geometry.layout.digest == self._context.geometry.layout.digest:
            self._deltas.add(contribution.delta.flat, contribution.weight)

    def of(self, pair: Pair) -> Float64:
        """The mean of one module, (rank, d_in); the master's where no client has its rank."""
        a = pair.a_of(self._context.master.flat).astype(np.float64)
        return a + pair.a_of(self._deltas.total()) / self._deltas.weight if self._deltas.weight else a

"""The weighted mean of whole deltas: what every rule that is linear in the updates needs, and all that it needs."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from plait.adapters import AdapterState
from plait.aggregation.contribution import ONE_RANK, Contribution
from plait.aggregation.geometry import Side
from plait.aggregation.rule import Outcome, RoundContext
from plait.aggregation.weighted_sum import Floating, WeightedSum


class Mean:
    """Accumulates the mean in float64, in the order of the calls.

    Args:
        context: of the round.
        frozen: sides that no client may change.
        kept: sides whose mean is discarded, since clients keep their own.
    """

    def __init__(self, context: RoundContext, *, frozen: Collection[Side] = (), kept: Collection[Side] = ()) -> None:
        self._context = context
        self._frozen = frozen
        self._kept = kept
        self._sum = WeightedSum(context.geometry.layout.size)

    def add(self, contribution: Contribution) -> None:
        """Take in one client's delta."""
        contribution.check(self._context.geometry, ranks=ONE_RANK, frozen=self._frozen)
        self._sum.add(contribution.delta.flat, contribution.weight)

    def mean(self) -> NDArray[np.float64]:
        """The mean delta, (layout.size,), of what is not kept."""
        return self._without_kept(self._sum.mean())

    def finish(self) -> Outcome:
        """The mean as a step."""
        return Outcome(AdapterState(self._context.geometry.layout, self._without_kept(self._sum.mean32())))

    def _without_kept(self, mean: NDArray[Floating]) -> NDArray[Floating]:
        for side in self._kept:
            for pair in self._context.geometry.pairs:
                slot = pair.slot(side)
                mean[slot.offset : slot.offset + slot.size] = 0.0
        return mean

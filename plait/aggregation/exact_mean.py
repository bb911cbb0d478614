"""The exact weighted mean of scale_k B_k A_k over a cohort of any ranks, held as factors; all else is averaged plainly.

This is what rules in product space start from and what the diagnostics measure every rule against. Knows no rule.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from plait.adapters import AdapterState
from plait.aggregation.contribution import Contribution
from plait.aggregation.geometry import Pair
from plait.aggregation.low_rank import Float64, LowRank
from plait.aggregation.product_sum import ProductSum
from plait.aggregation.round import RoundContext
from plait.aggregation.step import step_to
from plait.aggregation.weighted_sum import WeightedSum


class ExactMean:
    """Accumulates products of trained factors, and the deltas of all other tensors."""

    def __init__(self, context: RoundContext) -> None:
        self._context = context
        self._products = {pair.module: ProductSum(pair.d_out, pair.d_in) for pair in context.geometry.pairs}
        self._others = WeightedSum(context.geometry.others_size)

    def add(self, contribution: Contribution) -> None:
        """Add one client's trained adapter; the caller has checked it."""
        trained = contribution.geometry.trained(contribution.received.flat, contribution.delta.flat)
        for pair in contribution.geometry.pairs:
            weight = contribution.weight * pair.scale
            self._products[pair.module].add(pair.b_of(trained), pair.a_of(trained), weight)
        self._others.add(contribution.geometry.others_of(contribution.delta.flat), contribution.weight)

    @property
    def weight(self) -> float:
        """Sum of the weights.

        Raises:
            ValueError: nothing was added.
        """
        if not self._others.weight:
            raise ValueError("no update was added")
        return self._others.weight

    def product(self, pair: Pair) -> LowRank:
        """The exact mean of one module, (d_out, d_in)."""
        return self._products[pair.module].total().scaled(1.0 / self.weight)

    def step(self, factors: Mapping[str, tuple[Float64, Float64]]) -> AdapterState:
        """The step from the master to the given (B, A) of each module, and to the mean of all other tensors."""
        context = self._context
        wanted = np.empty(context.geometry.layout.size)
        for pair in context.geometry.pairs:
            b, a = factors[pair.module]
            pair.b_of(wanted)[:] = b
            pair.a_of(wanted)[:] = a
        others = context.geometry.others_of(context.master.flat) + self._others.mean()
        context.geometry.put_others(wanted, others)
        return step_to(wanted, context.master)

"""RBLA: every rank slice is averaged over the clients that have it.

Tavallaie et al., "RBLA: Rank-Based-LoRA-Aggregation for Fine-tuning Heterogeneous Models in FLaaS", arXiv 2408.08699.
Like zero padding, but a slice is divided by the weight of its owners only, so a slice that few clients have is not
diluted. A slice that no client has stays the master's. B and A are averaged separately, with FedAvg's error.
"""

from __future__ import annotations

import numpy as np

from plait.aggregation.contribution import UP_TO_SERVER, Contribution
from plait.aggregation.round import Outcome, RoundContext
from plait.aggregation.rule import Rule
from plait.aggregation.slice_sum import SliceSum
from plait.aggregation.step import step_to
from plait.aggregation.weighted_sum import WeightedSum


class _Round:
    def __init__(self, context: RoundContext) -> None:
        self._context = context
        self._slices = SliceSum(context.geometry)
        self._others = WeightedSum(context.geometry.others_size)

    def add(self, contribution: Contribution) -> None:
        trained = contribution.received.flat + contribution.delta.flat
        for pair in contribution.geometry.pairs:
            self._slices.add(pair, trained, contribution.weight)
        self._others.add(contribution.geometry.others_of(contribution.delta.flat), contribution.weight)

    def finish(self) -> Outcome:
        geometry = self._context.geometry
        wanted = self._context.master.flat.astype(np.float64)
        others = geometry.others_of(wanted) + self._others.mean()
        for pair in geometry.pairs:
            b, a = self._slices.mean_of_owners(pair, b=pair.b_of(wanted), a=pair.a_of(wanted))
            pair.b_of(wanted)[:], pair.a_of(wanted)[:] = b, a
        geometry.put_others(wanted, others)
        return Outcome(step_to(wanted, self._context.master))


RBLA = Rule(
    name="rbla",
    title="RBLA (arXiv 2408.08699)",
    computes="weighted mean of each rank slice of B and A over the clients that have it, without dilution",
    algorithm=_Round,
    linear=True,
    ranks=UP_TO_SERVER,
)

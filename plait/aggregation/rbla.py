"""RBLA: every rank slice is averaged over the clients that have it.

Tavallaie et al., "RBLA: Rank-Based-LoRA-Aggregation for Fine-tuning Heterogeneous Models in FLaaS", arXiv 2408.08699.
As zero padding, but a slice is divided by the weight of its owners only, so a slice that few clients have is not
diluted. A slice that nobody has stays the master's. B and A are averaged apart, with FedAvg's error.
"""

from __future__ import annotations

import numpy as np

from plait.aggregation.contribution import UP_TO_SERVER, Contribution
from plait.aggregation.geometry import BOTH_SIDES, Geometry, Side
from plait.aggregation.rule import Accumulator, Exactness, Handing, Outcome, RoundContext, Subject
from plait.aggregation.slice_sum import SliceSum
from plait.aggregation.step import step_to
from plait.aggregation.traffic import Traffic, parameters
from plait.aggregation.weighted_sum import WeightedSum


class Rbla:
    """The mean of each slice over its owners."""

    name = "rbla"
    title = "RBLA (arXiv 2408.08699)"
    computes = "weighted mean of each rank slice of B and A over the clients that have it, without dilution"
    subject = Subject.FACTORS
    exactness = Exactness.INEXACT
    linear = True
    mixed_ranks = True
    higher_ranks = False
    moves_base = False
    needs_all = False
    least_clients = 1
    continuous = True
    personal: Side | None = None
    handing = Handing.SLICE

    def trained(self, round_number: int) -> frozenset[Side]:  # noqa: ARG002 (the same in every round)
        """Both sides."""
        return BOTH_SIDES

    def begin(self, context: RoundContext) -> Accumulator:
        """Start a round."""
        return _Round(context)

    def traffic(self, server: Geometry, client: Geometry, clients: int) -> Traffic:  # noqa: ARG002
        """The client's slices both ways."""
        return Traffic(parameters(client), parameters(client))


class _Round:
    def __init__(self, context: RoundContext) -> None:
        self._context = context
        self._slices = SliceSum(context.geometry)
        self._others = WeightedSum(context.geometry.others_size)

    def add(self, contribution: Contribution) -> None:
        contribution.check(self._context.geometry, ranks=UP_TO_SERVER)
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

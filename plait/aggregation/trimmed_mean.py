"""The coordinate-wise trimmed mean of the deltas.

Yin et al., arXiv 1803.01498, definition 2: in every element the largest and the smallest share of the clients' values
are left out and the rest is averaged, without weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from plait.aggregation.geometry import BOTH_SIDES, Geometry, Side
from plait.aggregation.rule import Accumulator, Exactness, Handing, Outcome, RoundContext, Subject
from plait.aggregation.stacked import Stacked
from plait.aggregation.traffic import Traffic, parameters


@dataclass(frozen=True)
class TrimmedMean:
    """The mean of the middle values of each element.

    Attributes:
        share: of the clients to leave out at either end, from 0 to less than one half; of few clients at least one is
            left out if that leaves any.
    """

    share: float = 0.2

    name = "trimmed_mean"
    title = "coordinate-wise trimmed mean (arXiv 1803.01498)"
    computes = "mean of every element of B and A apart without the fifth of values at either end; weights are ignored"
    subject = Subject.TENSORS
    exactness = Exactness.INEXACT
    linear = False
    mixed_ranks = False
    higher_ranks = False
    moves_base = False
    needs_all = True
    least_clients = 3
    continuous = True
    personal: Side | None = None
    handing = Handing.SLICE

    def trained(self, round_number: int) -> frozenset[Side]:  # noqa: ARG002 (the same in every round)
        """Both sides."""
        return BOTH_SIDES

    def begin(self, context: RoundContext) -> Accumulator:
        """Start a round."""
        return Stacked(context, self._combine)

    def traffic(self, server: Geometry, client: Geometry, clients: int) -> Traffic:  # noqa: ARG002
        """The adapter both ways."""
        return Traffic(parameters(client), parameters(client))

    def _combine(self, stacked: Stacked) -> Outcome:
        clients = len(stacked.deltas)
        cut = min(max(1, int(self.share * clients)) if self.share else 0, (clients - 1) // 2)
        flat = np.empty(stacked.context.geometry.layout.size)
        for part, values in stacked.blocks():
            values.sort(axis=0)
            flat[part] = values[cut : clients - cut].mean(axis=0)
        return stacked.outcome(flat, trimmed_clients=float(2 * cut))

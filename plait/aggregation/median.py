"""The coordinate-wise median of the deltas.

Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", arXiv 1803.01498, definition 1.
Up to half of the clients, less one, can move no coordinate beyond the values of honest ones. Weights are ignored: a
liar would state a large one.
"""

from __future__ import annotations

import numpy as np

from plait.aggregation.geometry import BOTH_SIDES, Geometry, Side
from plait.aggregation.rule import Accumulator, Exactness, Handing, Outcome, RoundContext, Subject
from plait.aggregation.stacked import Stacked
from plait.aggregation.traffic import Traffic, parameters


class Median:
    """The median of each element."""

    name = "median"
    title = "coordinate-wise median (arXiv 1803.01498)"
    computes = "median of every element of B and A apart; weights are ignored; robust below half of bad clients"
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
        return Stacked(context, _combine)

    def traffic(self, server: Geometry, client: Geometry, clients: int) -> Traffic:  # noqa: ARG002
        """The adapter both ways."""
        return Traffic(parameters(client), parameters(client))


def _combine(stacked: Stacked) -> Outcome:
    flat = np.empty(stacked.context.geometry.layout.size)
    for part, values in stacked.blocks():
        flat[part] = np.median(values, axis=0)
    return stacked.outcome(flat)

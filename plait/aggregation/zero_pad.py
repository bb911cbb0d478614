"""Averaging clients of different ranks by padding their factors with zeros.

The baseline of Cho et al. (arXiv 2401.06432): with all of one rank and scale it is FedAvg. Padding dilutes: a slice
that few clients have shrinks towards zero each round (see `raflora` and `rbla`).
"""

from __future__ import annotations

from plait.aggregation.geometry import BOTH_SIDES, Geometry, Side
from plait.aggregation.hetlora import PaddedRound
from plait.aggregation.rule import Accumulator, Exactness, Handing, RoundContext, Subject
from plait.aggregation.traffic import Traffic, parameters


class ZeroPad:
    """The plain weighted mean of padded factors."""

    name = "zeropad"
    title = "zero padding, the baseline of HetLoRA (arXiv 2401.06432)"
    computes = "weighted mean of zero-padded B and A; slices that few clients have are diluted"
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
        return PaddedRound(context, by_norm=False)

    def traffic(self, server: Geometry, client: Geometry, clients: int) -> Traffic:  # noqa: ARG002
        """The client's slices both ways."""
        return Traffic(parameters(client), parameters(client))

"""FedSA-LoRA: A is shared, every client keeps a B of its own.

Guo et al., "Selective Aggregation for Low-Rank Adaptation in Federated Learning", arXiv 2410.01463. A carries what
clients have in common, B what is theirs. The mean of A is exact; but clients have models of their own, so there is no
one product to be exact about, and the master's B stays what it was.
"""

from __future__ import annotations

from plait.aggregation.geometry import BOTH_SIDES, Geometry, Side
from plait.aggregation.mean import Mean
from plait.aggregation.rule import Accumulator, Exactness, Handing, RoundContext, Subject
from plait.aggregation.traffic import Traffic, parameters


class FedSa:
    """The weighted mean of A."""

    name = "fedsa"
    title = "FedSA-LoRA (arXiv 2410.01463)"
    computes = "weighted mean of A; B stays at each client, so models are personal and have no common product"
    subject = Subject.FACTORS
    exactness = Exactness.INEXACT
    linear = True
    mixed_ranks = False
    higher_ranks = False
    moves_base = False
    needs_all = False
    least_clients = 1
    continuous = True
    personal: Side | None = Side.B
    handing = Handing.SLICE

    def trained(self, round_number: int) -> frozenset[Side]:  # noqa: ARG002 (the same in every round)
        """Both sides, though B is never sent."""
        return BOTH_SIDES

    def begin(self, context: RoundContext) -> Accumulator:
        """Start a round; whatever B a delta holds is ignored."""
        return Mean(context, kept={Side.B})

    def traffic(self, server: Geometry, client: Geometry, clients: int) -> Traffic:  # noqa: ARG002
        """A both ways."""
        sent = parameters(client, {Side.A})
        return Traffic(sent, sent)

"""FFA-LoRA: A stays as it was initialised, only B is trained and averaged.

Sun et al., "Improving LoRA in Privacy-preserving Federated Learning", arXiv 2403.12313. With one A for all, sum p_k B_k
A = (sum p_k B_k) A: the mean of B is the mean of the products.
"""

from __future__ import annotations

from plait.aggregation.geometry import Geometry, Side
from plait.aggregation.mean import Mean
from plait.aggregation.rule import Accumulator, Exactness, Handing, RoundContext, Subject
from plait.aggregation.traffic import Traffic, parameters


class Ffa:
    """The weighted mean of B over a frozen A."""

    name = "ffa"
    title = "FFA-LoRA (arXiv 2403.12313)"
    computes = "weighted mean of B over one frozen A, which is the exact mean of the products"
    subject = Subject.FACTORS
    exactness = Exactness.EXACT
    linear = True
    mixed_ranks = False
    higher_ranks = False
    moves_base = False
    needs_all = False
    least_clients = 1
    continuous = True
    personal: Side | None = None
    handing = Handing.SLICE

    def trained(self, round_number: int) -> frozenset[Side]:  # noqa: ARG002 (the same in every round)
        """B only."""
        return frozenset({Side.B})

    def begin(self, context: RoundContext) -> Accumulator:
        """Start a round; a delta whose A is not zero is refused."""
        return Mean(context, frozen={Side.A})

    def traffic(self, server: Geometry, client: Geometry, clients: int) -> Traffic:  # noqa: ARG002
        """B both ways; A follows from the seed."""
        sent = parameters(client, {Side.B})
        return Traffic(sent, sent)

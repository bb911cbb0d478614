"""RoLoRA: clients train B in one round and A in the next, the other side frozen.

Chen et al., "Robust Federated Finetuning of LLMs via Alternating Optimization of LoRA", arXiv 2502.01755. In each round
one side is the same for all, so the mean of the other is the mean of the products; over two rounds both sides learn. B
comes first, since a fresh adapter has B = 0 and then A has no gradient.
"""

from __future__ import annotations

from plait.aggregation.geometry import BOTH_SIDES, Geometry, Side
from plait.aggregation.mean import Mean
from plait.aggregation.rule import Accumulator, Exactness, Handing, RoundContext, Subject
from plait.aggregation.traffic import Traffic, parameters


class RoLora:
    """The weighted mean of the side whose turn it is."""

    name = "rolora"
    title = "RoLoRA (arXiv 2502.01755)"
    computes = (
        "weighted mean of B in odd and of A in even rounds, the other side frozen: the exact mean of the products"
    )
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

    def trained(self, round_number: int) -> frozenset[Side]:
        """B in odd rounds, A in even ones."""
        return frozenset({Side.B if round_number % 2 else Side.A})

    def begin(self, context: RoundContext) -> Accumulator:
        """Start a round; a delta whose frozen side is not zero is refused."""
        return Mean(context, frozen=BOTH_SIDES - self.trained(context.round))

    def traffic(self, server: Geometry, client: Geometry, clients: int) -> Traffic:  # noqa: ARG002
        """One side both ways, on average half of the factors."""
        sent = (parameters(client, {Side.A}) + parameters(client, {Side.B})) / 2
        return Traffic(sent, sent)

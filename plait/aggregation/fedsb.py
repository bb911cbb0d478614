"""Fed-SB: the mean of the small square matrices of LoRA-XS, between factors that never change.

Singhal et al., "Fed-SB: A Silver Bullet for Extreme Communication Efficiency and Performance in (Private) Federated
LoRA Fine-Tuning", arXiv 2502.15436; LoRA-XS is arXiv 2405.17604. With W' = W + scale * B R A and A, B the same for all
and fixed, sum p_k B R_k A = B (sum p_k R_k) A. The layout then holds only the matrices R (rank x rank) and no pair.
"""

from __future__ import annotations

from plait.adapters import Layout
from plait.aggregation.geometry import Geometry, Side
from plait.aggregation.mean import Mean
from plait.aggregation.requirements import check_rule
from plait.aggregation.rule import Accumulator, Exactness, Handing, RoundContext, Subject
from plait.aggregation.traffic import Traffic, parameters


class FedSb:
    """The weighted mean of R."""

    name = "fedsb"
    title = "Fed-SB on LoRA-XS (arXiv 2502.15436, 2405.17604)"
    computes = "weighted mean of the square matrices R between fixed B and A, which is the exact mean of B R A"
    subject = Subject.SQUARES
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
        """Neither: what is trained lies between the sides."""
        return frozenset()

    def begin(self, context: RoundContext) -> Accumulator:
        """Start a round.

        Raises:
            ConfigError: the adapter has LoRA's own factors among what is trained.
        """
        check_rule(self, context.geometry)
        return Mean(context)

    def traffic(self, server: Geometry, client: Geometry, clients: int) -> Traffic:  # noqa: ARG002
        """The matrices R both ways."""
        sent = parameters(client, ())
        return Traffic(sent, sent)


def square_geometry(factors: Geometry) -> Geometry:
    """What LoRA-XS trains on the modules of a LoRA adapter: a square matrix of each pair's rank, and the same rest."""
    shapes = {f"{pair.module}.lora_R": (pair.rank, pair.rank) for pair in factors.pairs}
    layout = Layout.of({**shapes, **{slot.name: slot.shape for slot in factors.others}})
    return Geometry(layout, (), layout.slots)

"""Fed-SB: the mean of the small square matrices of LoRA-XS, between factors that never change.

Singhal et al., "Fed-SB: A Silver Bullet for Extreme Communication Efficiency and Performance in (Private) Federated
LoRA Fine-Tuning", arXiv 2502.15436; LoRA-XS is arXiv 2405.17604. With W' = W + scale * B R A and A, B the same for all
and fixed, sum p_k B R_k A = B (sum p_k R_k) A. The layout then holds only the matrices R (rank x rank) and no pair.
"""

from __future__ import annotations

from plait.aggregation.geometry import Geometry, Side
from plait.aggregation.mean import Mean
from plait.aggregation.rule import Accumulator, Exactness, Handing, RoundContext
from plait.aggregation.traffic import Traffic, parameters
from plait.errors import ConfigError


class FedSb:
    """The weighted mean of R."""

    name = "fedsb"
    title = "Fed-SB on LoRA-XS (arXiv 2502.15436, 2405.17604)"
    computes = "weighted mean of the square matrices R between fixed B and A, which is the exact mean of B R A"
    exactness = Exactness.EXACT
    linear = True
    mixed_ranks = False
    moves_base = False
    needs_all = False
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
        if context.geometry.pairs:
            raise ConfigError(
                f"rule is '{self.name}' but '{context.geometry.pairs[0].module}' trains A and B, "
                "expected an adapter of the method LoRA-XS"
            )
        return Mean(context)

    def traffic(self, server: Geometry, client: Geometry, clients: int) -> Traffic:  # noqa: ARG002
        """The matrices R both ways."""
        sent = parameters(client, ())
        return Traffic(sent, sent)

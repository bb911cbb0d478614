"""Example-weighted federated averaging of adapter deltas.

FedAvg (McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", arXiv 1602.05629,
algorithm 1) on the factors of LoRA is FedIT (Zhang et al., "Towards Building the Federated GPT", arXiv 2305.05644). It
averages A and B apart, so for low-rank factors the result is not the mean of the products: with weights p_k,

    sum p_k B_k A_k  =  B̄ Ā  +  sum p_k (B_k - B̄)(A_k - Ā),

and the last term, the covariance of the factors over the cohort, is what this rule leaves out.
"""

from __future__ import annotations

from plait.aggregation.geometry import BOTH_SIDES, Geometry, Side
from plait.aggregation.mean import Mean
from plait.aggregation.rule import Accumulator, Exactness, Handing, RoundContext, Subject
from plait.aggregation.traffic import Traffic, parameters


class FedAvg:
    """The weighted mean of the deltas."""

    name = "fedavg"
    title = "FedIT: FedAvg on LoRA factors (arXiv 1602.05629, 2305.05644)"
    computes = "weighted mean of every tensor; of B and A apart, so off by their covariance over the cohort"
    subject = Subject.TENSORS
    exactness = Exactness.INEXACT
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
        """Both sides."""
        return BOTH_SIDES

    def begin(self, context: RoundContext) -> Accumulator:
        """Start a round."""
        return Mean(context)

    def traffic(self, server: Geometry, client: Geometry, clients: int) -> Traffic:  # noqa: ARG002
        """The adapter both ways."""
        return Traffic(parameters(client), parameters(client))

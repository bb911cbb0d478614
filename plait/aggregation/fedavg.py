"""Example-weighted federated averaging of adapter deltas.

FedAvg (McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", arXiv 1602.05629,
algorithm 1). In each round the clients k of the cohort train the adapter w that they received, and the server averages:

    for each client k:  w_k <- ClientUpdate(k, w)
    w <- sum_k (n_k / n) w_k,  that is  w <- w + sum_k (n_k / n) d_k  with  d_k = w_k - w.

On the factors of LoRA this is FedIT (Zhang et al., "Towards Building the Federated GPT", arXiv 2305.05644). It averages
A and B separately, so for low-rank factors the result is not the mean of the products: with weights p_k,

    sum p_k B_k A_k  =  B̄ Ā  +  sum p_k (B_k - B̄)(A_k - Ā),

and the last term, the covariance of the factors over the cohort, is what this rule leaves out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from plait.adapters import AdapterState, Subject
from plait.aggregation.contribution import Contribution
from plait.aggregation.round import Outcome, RoundContext
from plait.aggregation.rule import Rule
from plait.aggregation.weighted_sum import WeightedSum


class Mean:
    """The weighted mean of the deltas, rounded once: enough for any rule that is linear in the updates."""

    def __init__(self, context: RoundContext) -> None:
        self._layout = context.geometry.layout
        self._sum = WeightedSum(self._layout.size)

    def add(self, contribution: Contribution) -> None:
        """Add n_k d_k."""
        self._sum.add(contribution.delta.flat, contribution.weight)

    def mean(self) -> NDArray[np.float64]:
        """The mean delta, (layout.size,)."""
        return self._sum.mean()

    def finish(self) -> Outcome:
        """The mean delta as the step."""
        return Outcome(AdapterState(self._layout, self._sum.mean().astype(np.float32)))


FEDAVG = Rule(
    name="fedavg",
    title="FedIT: FedAvg on LoRA factors (arXiv 1602.05629, 2305.05644)",
    computes="weighted mean of every tensor; of B and A separately, so off by their covariance over the cohort",
    algorithm=Mean,
    subject=Subject.TENSORS,
    linear=True,
)

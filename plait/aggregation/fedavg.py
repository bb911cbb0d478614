"""Example-weighted federated averaging of adapter deltas.

FedAvg (McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", arXiv 1602.05629,
algorithm 1) on the factors of LoRA is FedIT (Zhang et al., arXiv 2305.05644). It averages A and B apart, so for
low-rank factors the result is not the mean of the products: with weights p_k,

    sum p_k B_k A_k  =  B̄ Ā  +  sum p_k (B_k - B̄)(A_k - Ā),

and the last term, the covariance of the factors over the cohort, is what this rule leaves out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from plait.adapters import AdapterState, Layout
from plait.aggregation.rule import Accumulator


class FedAvg:
    """The weighted mean of the deltas, accumulated in float64 in the order in which they are added."""

    name = "fedavg"
    computes = "weighted mean of every tensor; of B and A apart, so off by their covariance over the cohort"
    linear = True

    def begin(self, received: AdapterState) -> Accumulator:
        """Start a round; only the layout of `received` matters to this rule."""
        return _WeightedSum(received.layout)


class _WeightedSum:
    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._sum: NDArray[np.float64] = np.zeros(layout.size, np.float64)
        self._weight = 0.0

    def add(self, delta: AdapterState, weight: float) -> None:
        if delta.layout.digest != self._layout.digest:
            raise ValueError("the delta has another layout than the adapter that was received")
        if not (weight > 0 and np.isfinite(weight)):
            raise ValueError(f"weight is {weight}, expected a positive finite number")
        self._sum += np.multiply(delta.flat, weight, dtype=np.float64)
        self._weight += weight

    def finish(self) -> AdapterState:
        if not self._weight:
            raise ValueError("no update was added")
        return AdapterState(self._layout, (self._sum / self._weight).astype(np.float32))

"""The geometric median of the deltas: the point whose weighted sum of distances to them is smallest.

Pillutla et al., "Robust Aggregation for Federated Learning" (RFA), arXiv 1912.13445, algorithm 2, the smoothed
Weiszfeld iteration: v <- sum beta_k d_k / sum beta_k with beta_k = p_k / max(nu, ||v - d_k||). Robust while less than
half of the weight is bad, in every direction, unlike a coordinate-wise median. The iterate is always a mixture of
the deltas, so only their inner products and the mixture's weights are needed until the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from plait.adapters import Subject
from plait.aggregation.round import Outcome, RoundContext
from plait.aggregation.rule import Rule
from plait.aggregation.stacked import Stacked


@dataclass(frozen=True)
class GeometricMedian:
    """The smoothed geometric median."""

    smoothing: Annotated[
        float, Field(ge=0, le=1, description="smoothing nu, relative to the norm of a typical delta")
    ] = 1e-6
    iterations: Annotated[
        int, Field(ge=1, le=100_000, description="maximum; it stops earlier once the mixture has converged")
    ] = 1000

    def __call__(self, context: RoundContext) -> Stacked:
        """Begin a round."""
        return Stacked(context, self._combine)

    def _combine(self, stacked: Stacked) -> Outcome:
        mixture = self._mixture(_gram(stacked), np.array(stacked.weights))
        flat = np.empty(stacked.context.geometry.layout.size)
        for part, values in stacked.blocks():
            flat[part] = mixture @ values
        return stacked.outcome(flat, largest_share=float(mixture.max()))

    def _mixture(self, gram: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
        shares = weights / weights.sum()
        nu = self.smoothing * float(np.median(np.sqrt(np.diag(gram)))) or np.finfo(np.float64).tiny
        mixture = shares
        for _ in range(self.iterations):
            # || v - d_k ||^2 with v = sum_j m_j d_j, from inner products.
            inner = gram @ mixture
            squares = mixture @ inner - 2.0 * inner + np.diag(gram)
            beta = shares / np.maximum(nu, np.sqrt(np.maximum(squares, 0.0)))
            before, mixture = mixture, beta / beta.sum()
            if np.abs(mixture - before).max() < 1e-12:
                break
        return mixture


def _gram(stacked: Stacked) -> NDArray[np.float64]:
    gram = np.zeros((len(stacked.deltas), len(stacked.deltas)))
    for _, values in stacked.blocks():
        gram += values @ values.T
    return gram


GEOMETRIC_MEDIAN = Rule(
    name="geometric_median",
    title="RFA, smoothed geometric median (arXiv 1912.13445)",
    computes="point of least weighted distance to all deltas, B and A as one vector; robust below half of bad weight",
    algorithm=GeometricMedian(),
    subject=Subject.TENSORS,
    needs_all=True,
    least_clients=3,
)

"""Rules that withstand bad clients: all deltas of a round side by side, so memory grows with the cohort.

Coordinate-wise median and trimmed mean are definitions 1 and 2 of Yin et al., arXiv 1803.01498; weights are ignored,
because a liar would state a large one. The geometric median is that of RFA (Pillutla et al., arXiv 1912.13445,
algorithm 2, smoothed Weiszfeld): v <- sum beta_k d_k / sum beta_k with beta_k = p_k / max(nu, ||v - d_k||), by inner
products of the deltas alone.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from plait.adapters import AdapterState, Float32, Subject
from plait.aggregation.rule import Contribution, Outcome, RoundContext, Rule

# Elements of the adapter for which the values of all clients are processed together.
_BLOCK_ELEMENTS = 1 << 14


class Stacked:
    """Stores every delta of a round; the rule combines them at its end."""

    def __init__(self, context: RoundContext, combine: "Callable[[Stacked], Outcome]") -> None:
        self.context = context
        self.deltas: list[Float32] = []
        self.weights: list[float] = []
        self._combine = combine

    def add(self, contribution: Contribution) -> None:
        """Store one client's delta."""
        self.deltas.append(contribution.delta.flat)
        self.weights.append(contribution.weight)

    def finish(self) -> Outcome:
        """The outcome of all of them."""
        return self._combine(self)

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.float64]]]:
        """Parts of the adapter and the values of all clients there, (clients, elements)."""
        for start in range(0, self.context.geometry.layout.size, _BLOCK_ELEMENTS):
            part = slice(start, start + _BLOCK_ELEMENTS)
            yield part, np.array([delta[part] for delta in self.deltas], np.float64)

    def outcome(self, flat: NDArray[np.float64], **figures: float) -> Outcome:
        """`flat`, (layout.size,), as a step."""
        return Outcome(AdapterState(self.context.geometry.layout, flat.astype(np.float32)), figures=figures)


def _combine(stacked: Stacked) -> Outcome:
    flat = np.empty(stacked.context.geometry.layout.size)
    for part, values in stacked.blocks():
        flat[part] = np.median(values, axis=0)
    return stacked.outcome(flat)


MEDIAN = Rule(
    name="median",
    title="coordinate-wise median (arXiv 1803.01498)",
    computes="median of every element of B and A separately; weights are ignored; robust below half of bad clients",
    algorithm=partial(Stacked, combine=_combine),
    subject=Subject.TENSORS,
    needs_all=True,
    least_clients=3,
)


@dataclass(frozen=True)
class TrimmedMean:
    """The mean of the middle values of each element; of few clients at least one is left out if that leaves any."""

    share: Annotated[float, Field(ge=0, lt=0.5, description="share of the clients to leave out at either end")] = 0.2

    def __call__(self, context: RoundContext) -> Stacked:
        """Begin a round."""
        return Stacked(context, self._combine)

    def _combine(self, stacked: Stacked) -> Outcome:
        clients = len(stacked.deltas)
        cut = min(max(1, int(self.share * clients)) if self.share else 0, (clients - 1) // 2)
        flat = np.empty(stacked.context.geometry.layout.size)
        for part, values in stacked.blocks():
            values.sort(axis=0)
            flat[part] = values[cut : clients - cut].mean(axis=0)
        return stacked.outcome(flat, trimmed_clients=float(2 * cut))


TRIMMED_MEAN = Rule(
    name="trimmed_mean",
    title="coordinate-wise trimmed mean (arXiv 1803.01498)",
    computes="mean of every element of B and A separately, without a share of values at each end; weights are ignored",
    algorithm=TrimmedMean(),
    subject=Subject.TENSORS,
    needs_all=True,
    least_clients=3,
)


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

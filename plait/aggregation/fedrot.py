"""FedRot-LoRA: rotate every client's factors towards the common ones, then average.

Zhang et al., "FedRot-LoRA: Mitigating Rotational Misalignment in Federated LoRA", arXiv 2602.23638. (B R)(R^T A) = B A
for orthogonal R, so clients that learned the same may disagree in their factors, which then cancel in the mean. For
each client R is the orthogonal Procrustes solution against the adapter that all received: in odd rounds min ||R^T A_k -
A|| with R = U V^T of A_k A^T = U S V^T, in even rounds min ||B_k R - B|| with R = U V^T of B_k^T B. The paper rotates
at the client, before sending; rotating at the server gives the same mean and needs nothing from clients. A strength
below 1 rotates partially: by the orthogonal matrix nearest to (1 - strength) I + strength R.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from plait.aggregation.contribution import Contribution
from plait.aggregation.geometry import Pair, Side
from plait.aggregation.low_rank import Float64
from plait.aggregation.round import Accumulator, Outcome, RoundContext
from plait.aggregation.rule import Rule
from plait.aggregation.step import step_to


class _Round:
    def __init__(self, context: RoundContext, strength: float) -> None:
        self._context = context
        self._side = Side.A if context.round % 2 else Side.B
        self._strength = strength
        self._sum = np.zeros(context.geometry.layout.size)
        self._weight = 0.0

    def add(self, contribution: Contribution) -> None:
        received = contribution.received.flat.astype(np.float64)
        trained = received + contribution.delta.flat
        for pair in contribution.geometry.pairs:
            b, a = pair.b_of(trained), pair.a_of(trained)
            rotation = self._rotation(pair, received, b, a)
            b[:] = b @ rotation
            a[:] = rotation.T @ a
        trained *= contribution.weight
        self._sum += trained
        self._weight += contribution.weight

    def finish(self) -> Outcome:
        return Outcome(step_to(self._sum / self._weight, self._context.master))

    def _rotation(self, pair: Pair, received: Float64, b: Float64, a: Float64) -> Float64:
        cross = a @ pair.a_of(received).T if self._side is Side.A else b.T @ pair.b_of(received)
        if not cross.any():
            return np.eye(pair.rank)
        rotation = _nearest_orthogonal(cross)
        if self._strength == 1.0:
            return rotation
        return _nearest_orthogonal((1.0 - self._strength) * np.eye(pair.rank) + self._strength * rotation)


def _nearest_orthogonal(matrix: Float64) -> Float64:
    u, _, vt = np.linalg.svd(matrix)
    return u @ vt


@dataclass(frozen=True)
class FedRot:
    """The weighted mean of turned factors."""

    strength: Annotated[float, Field(ge=0, le=1, description="how far to turn: 0 not at all, 1 all the way")] = 1.0

    def __call__(self, context: RoundContext) -> Accumulator:
        """Begin a round."""
        return _Round(context, self.strength)


FEDROT = Rule(
    name="fedrot",
    title="FedRot-LoRA (arXiv 2602.23638)",
    computes="mean of B and A after turning each client's factors to the received A (odd rounds) or B (even rounds)",
    algorithm=FedRot(),
)

"""FedRot-LoRA: turn every client's factors towards the common ones, then average.

Zhang et al., "FedRot-LoRA: Mitigating Rotational Misalignment in Federated LoRA", arXiv 2602.23638. (B R)(R^T A) = B A
for orthogonal R, so clients that learned the same may disagree in their factors; the mean of those cancels. For each
client R is the orthogonal Procrustes solution against the adapter that all received: in odd rounds min ||R^T A_k - A||
with R = U V^T of A_k A^T = U S V^T, in even rounds min ||B_k R - B|| with R = U V^T of B_k^T B. The paper turns at the
client and before sending; turning at the server gives the same mean and asks nothing of clients. A strength below 1
goes part of the way: the orthogonal matrix nearest to (1 - strength) I + strength R.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from plait.aggregation.contribution import ONE_RANK, Contribution
from plait.aggregation.geometry import BOTH_SIDES, Geometry, Pair, Side
from plait.aggregation.low_rank import Float64
from plait.aggregation.rule import Accumulator, Exactness, Handing, Outcome, RoundContext, Subject
from plait.aggregation.step import step_to
from plait.aggregation.traffic import Traffic, parameters


@dataclass(frozen=True)
class FedRot:
    """The weighted mean of turned factors.

    Attributes:
        strength: from 0, no rotation, to 1, all of it.
    """

    strength: float = 1.0

    name = "fedrot"
    title = "FedRot-LoRA (arXiv 2602.23638)"
    computes = "mean of B and A after turning each client's factors to the received A (odd rounds) or B (even rounds)"
    subject = Subject.FACTORS
    exactness = Exactness.INEXACT
    linear = False
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
        return _Round(context, self.strength)

    def traffic(self, server: Geometry, client: Geometry, clients: int) -> Traffic:  # noqa: ARG002
        """The adapter both ways."""
        return Traffic(parameters(client), parameters(client))


class _Round:
    def __init__(self, context: RoundContext, strength: float) -> None:
        self._context = context
        self._side = Side.A if context.round % 2 else Side.B
        self._strength = strength
        self._sum = np.zeros(context.geometry.layout.size)
        self._weight = 0.0

    def add(self, contribution: Contribution) -> None:
        contribution.check(self._context.geometry, ranks=ONE_RANK)
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
        if not self._weight:
            raise ValueError("no update was added")
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

"""LoRA-FAIR: the means of B and A, with B corrected towards the exact mean of the products.

Bian et al., "LoRA-FAIR: Federated LoRA Fine-Tuning with Aggregation and Initialization Refinement", arXiv 2411.14961:
the server looks for a correction D of B̄ that makes (B̄ + D) Ā alike to the exact mean M and keeps D small. The paper
measures likeness by cosine and descends by SGD; here it is the squared Frobenius distance, for which the answer is
closed:

    min ||M - s (B̄ + D) Ā||^2 + mu ||D||^2   =>   D = s E Ā^T (s^2 Ā Ā^T + mu I)^-1,   E = M - s B̄ Ā,

with mu = lambda * trace(s^2 Ā Ā^T) / r, so that lambda has no unit, and lambda = 0.01 as in the paper. E stays factors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from plait.aggregation.contribution import ONE_RANK, Contribution
from plait.aggregation.exact_mean import ExactMean
from plait.aggregation.geometry import BOTH_SIDES, Geometry, Side
from plait.aggregation.low_rank import LowRank
from plait.aggregation.mean import Mean
from plait.aggregation.rule import Accumulator, Exactness, Handing, Outcome, RoundContext, Subject
from plait.aggregation.step import step_to
from plait.aggregation.traffic import Traffic, parameters


@dataclass(frozen=True)
class LoraFair:
    """The corrected mean.

    Attributes:
        strength: lambda, how much a large correction costs relative to the mean square of A; more than 0.
    """

    strength: float = 0.01

    name = "lora_fair"
    title = "LoRA-FAIR (arXiv 2411.14961)"
    computes = "means of B and A, then B moved to the ridge regression of the exact mean on A (closed form, no cosine)"
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
        self._strength = strength
        self._mean = Mean(context)
        self._exact = ExactMean(context)

    def add(self, contribution: Contribution) -> None:
        contribution.check(self._context.geometry, ranks=ONE_RANK)
        self._mean.add(contribution)
        self._exact.add(contribution)

    def finish(self) -> Outcome:
        wanted = self._context.master.flat + self._mean.mean()
        for pair in self._context.geometry.pairs:
            b, a = pair.b_of(wanted), pair.a_of(wanted)
            gram = pair.scale**2 * a @ a.T
            mu = self._strength * np.trace(gram) / pair.rank
            if mu > 0:
                error = self._exact.product(pair).plus(LowRank(b, a), factor=-pair.scale)
                against_a = pair.scale * error.b @ (error.a @ a.T)
                b += np.linalg.solve(gram + mu * np.eye(pair.rank), against_a.T).T
        return Outcome(step_to(wanted, self._context.master))

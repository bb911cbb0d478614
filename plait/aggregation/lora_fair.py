"""LoRA-FAIR: the means of B and A, with B corrected towards the exact mean of the products.

Bian et al., "LoRA-FAIR: Federated LoRA Fine-Tuning with Aggregation and Initialization Refinement", arXiv 2411.14961:
the server finds a correction D of B̄ that makes (B̄ + D) Ā similar to the exact mean M and keeps D small. The paper
measures similarity by cosine and descends by SGD; here it is the squared Frobenius distance, which has a closed-form
solution:

    min ||M - s (B̄ + D) Ā||^2 + mu ||D||^2   =>   D = s E Ā^T (s^2 Ā Ā^T + mu I)^-1,   E = M - s B̄ Ā,

with mu = lambda * trace(s^2 Ā Ā^T) / r, so that lambda has no unit, and lambda = 0.01 as in the paper. E stays in
factors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from plait.aggregation.contribution import Contribution
from plait.aggregation.exact_mean import ExactMean
from plait.aggregation.fedavg import Mean
from plait.aggregation.low_rank import LowRank
from plait.aggregation.round import Accumulator, Outcome, RoundContext
from plait.aggregation.rule import Rule
from plait.aggregation.step import step_to


class _Round:
    def __init__(self, context: RoundContext, strength: float) -> None:
        self._context = context
        self._strength = strength
        self._mean = Mean(context)
        self._exact = ExactMean(context)

    def add(self, contribution: Contribution) -> None:
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


@dataclass(frozen=True)
class LoraFair:
    """The corrected mean."""

    strength: Annotated[
        float,
        Field(gt=0, le=1e6, description="lambda: the cost of a large correction, relative to the mean square of A"),
    ] = 0.01

    def __call__(self, context: RoundContext) -> Accumulator:
        """Begin a round."""
        return _Round(context, self.strength)


LORA_FAIR = Rule(
    name="lora_fair",
    title="LoRA-FAIR (arXiv 2411.14961)",
    computes="means of B and A, then B moved to the ridge regression of the exact mean on A (closed form, no cosine)",
    algorithm=LoraFair(),
)

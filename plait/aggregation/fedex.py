"""FedEx-LoRA: the means of B and A as the adapter, and the residual is merged into the base.

Singhal et al., "FedEx-LoRA: Exact Aggregation for Federated and Efficient Fine-Tuning of Foundation Models", arXiv
2410.09432: W0' = W0 + s (sum p_k B_k A_k - B̄ Ā). The residual is the covariance of the factors over the cohort, of
rank (K - 1) r at most; it is returned as factors, never as a dense matrix. It is computed against the float32 adapter,
so rounding does not add up over rounds.
"""

from __future__ import annotations

import numpy as np

from plait.aggregation.base_delta import BaseDelta
from plait.aggregation.contribution import Contribution
from plait.aggregation.exact_mean import ExactMean
from plait.aggregation.fedavg import Mean
from plait.aggregation.geometry import Pair
from plait.aggregation.low_rank import LowRank
from plait.aggregation.round import Outcome, RoundContext
from plait.aggregation.rule import Exactness, Rule
from plait.aggregation.step import landing
from plait.aggregation.traffic import parameters, stacked_parameters


class _Round:
    def __init__(self, context: RoundContext) -> None:
        self._context = context
        self._mean = Mean(context)
        self._exact = ExactMean(context)

    def add(self, contribution: Contribution) -> None:
        self._mean.add(contribution)
        self._exact.add(contribution)

    def finish(self) -> Outcome:
        outcome = self._mean.finish()
        landed = landing(outcome.step, self._context.master)
        residuals: dict[str, LowRank] = {}
        for pair in self._context.geometry.pairs:
            b, a = pair.b_of(landed).astype(float), pair.a_of(landed).astype(float)
            residual = self._exact.product(pair).plus(LowRank(b, a), factor=-pair.scale)
            residuals[pair.module] = _without_rounding(residual, pair, float(np.linalg.norm(b) * np.linalg.norm(a)))
        return Outcome(outcome.step, base=BaseDelta(residuals))


def _without_rounding(residual: LowRank, pair: Pair, magnitude: float) -> LowRank:
    # The float32 factors are off by half a unit in the last place; that is no covariance, and would cost 2 * rank
    # columns.
    noise = pair.scale * magnitude * float(np.finfo(np.float32).eps)
    size = residual.norm()
    return residual.compressed(min(1.0, noise / size)) if size else LowRank.zero(pair.d_out, pair.d_in)


FEDEX = Rule(
    name="fedex",
    title="FedEx-LoRA (arXiv 2410.09432)",
    computes="weighted means of B and A, and the covariance that they miss merged into the base as factors: exact",
    algorithm=_Round,
    exactness=Exactness.EXACT,
    moves_base=True,
    # Besides the adapter the residual, of rank (clients - 1) * rank at most.
    downlink=lambda client, clients: parameters(client) + stacked_parameters(client, clients - 1),
)

"""FedEx-LoRA: the means of B and A as the adapter, and what they miss goes into the base.

Singhal et al., "FedEx-LoRA: Exact Aggregation for Federated and Efficient Fine-Tuning of Foundation Models", arXiv
2410.09432: W0' = W0 + s (sum p_k B_k A_k - B̄ Ā). The residual is the covariance of the factors over the cohort, of
rank (K - 1) r at most; it is handed out as factors, never as a dense matrix. It is taken against the adapter as float32
holds it, so rounding does not add up over rounds.
"""

from __future__ import annotations

import numpy as np

from plait.aggregation.base_delta import BaseDelta
from plait.aggregation.contribution import ONE_RANK, Contribution
from plait.aggregation.exact_mean import ExactMean
from plait.aggregation.geometry import BOTH_SIDES, Geometry, Pair, Side
from plait.aggregation.low_rank import LowRank
from plait.aggregation.mean import Mean
from plait.aggregation.rule import Accumulator, Exactness, Handing, Outcome, RoundContext, Subject
from plait.aggregation.step import landing
from plait.aggregation.traffic import Traffic, parameters, stacked_parameters


class FedEx:
    """The mean of the factors, and their covariance as a change of the base."""

    name = "fedex"
    title = "FedEx-LoRA (arXiv 2410.09432)"
    computes = "weighted means of B and A, and the covariance that they miss merged into the base as factors: exact"
    subject = Subject.FACTORS
    exactness = Exactness.EXACT
    linear = False
    mixed_ranks = False
    higher_ranks = False
    moves_base = True
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
        return _Round(context)

    def traffic(self, server: Geometry, client: Geometry, clients: int) -> Traffic:  # noqa: ARG002
        """The adapter both ways, and down the residual of rank (clients - 1) * rank at most."""
        return Traffic(parameters(client), parameters(client) + stacked_parameters(client, clients - 1))


class _Round:
    def __init__(self, context: RoundContext) -> None:
        self._context = context
        self._mean = Mean(context)
        self._exact = ExactMean(context)

    def add(self, contribution: Contribution) -> None:
        contribution.check(self._context.geometry, ranks=ONE_RANK)
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

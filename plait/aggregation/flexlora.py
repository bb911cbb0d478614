"""FlexLoRA: the best adapter of the server's rank for the exact mean of the products.

Bai et al., "Federated Fine-tuning of Large Language Models under Heterogeneous Tasks and Client Resources", arXiv
2402.11505: truncated singular value decomposition of sum p_k s_k B_k A_k. The paper forms that d_out x d_in matrix;
here it stays the stack of factors, decomposed through QR of both stacks. Exact except for the truncation, whose size is
reported. A product does not determine its factors: where all clients have one rank, those nearest to the mean of their
A are used (`projection.factored`), since balanced ones change in every round, and a coarse codec would destroy so large
a step.
"""

from __future__ import annotations

import math

from plait.aggregation.contribution import ANY_RANK, Contribution
from plait.aggregation.exact_mean import ExactMean
from plait.aggregation.low_rank import Float64
from plait.aggregation.mean_a import MeanA
from plait.aggregation.projection import factored
from plait.aggregation.round import Outcome, RoundContext
from plait.aggregation.rule import Exactness, Resizing, Rule


class _Round:
    def __init__(self, context: RoundContext) -> None:
        self._context = context
        self._mean = ExactMean(context)
        self._mean_a = MeanA(context)

    def add(self, contribution: Contribution) -> None:
        self._mean.add(contribution)
        self._mean_a.add(contribution)

    def finish(self) -> Outcome:
        factors: dict[str, tuple[Float64, Float64]] = {}
        dropped = 0.0
        for pair in self._context.geometry.pairs:
            best = factored(self._mean.product(pair), pair, near=self._mean_a.of(pair), one_rank=self._context.one_rank)
            factors[pair.module] = best.b, best.a
            dropped += best.dropped**2
        return Outcome(self._mean.step(factors), figures={"truncation": math.sqrt(dropped)})


FLEXLORA = Rule(
    name="flexlora",
    title="FlexLoRA (arXiv 2402.11505)",
    computes="best product of the server's rank for the exact mean of the products, by SVD of the stacked factors",
    algorithm=_Round,
    exactness=Exactness.UP_TO_TRUNCATION,
    ranks=ANY_RANK,
    resizing=Resizing.BEST,
)

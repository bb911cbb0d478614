"""FLoRIST: singular value thresholding of the stacked adapters.

Ramesh and Dass, "FLoRIST: Singular Value Thresholding for Efficient and Accurate Federated Fine-Tuning of Large
Language Models", arXiv 2506.09199: decompose the two stacks separately, then the small matrix between them, and keep
the fewest singular values that hold a share tau of the energy (sum of squares). In the paper the rank of the global
adapter follows from tau; here the layout is fixed, so it is also at most the server's rank, and the product is sent in
the factors nearest to the mean of the clients' A, as with FlexLoRA.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from plait.aggregation.contribution import ANY_RANK, Contribution
from plait.aggregation.exact_mean import ExactMean
from plait.aggregation.low_rank import Float64
from plait.aggregation.mean_a import MeanA
from plait.aggregation.projection import factored
from plait.aggregation.round import Accumulator, Outcome, RoundContext
from plait.aggregation.rule import Exactness, Resizing, Rule


class _Round:
    def __init__(self, context: RoundContext, energy: float) -> None:
        self._context = context
        self._mean = ExactMean(context)
        self._mean_a = MeanA(context)
        # The norm of what is dropped, relative to the whole.
        self._tolerance = math.sqrt(1.0 - energy)

    def add(self, contribution: Contribution) -> None:
        self._mean.add(contribution)
        self._mean_a.add(contribution)

    def finish(self) -> Outcome:
        factors: dict[str, tuple[Float64, Float64]] = {}
        dropped, columns = 0.0, 0
        for pair in self._context.geometry.pairs:
            exact = self._mean.product(pair)
            cut = exact.compressed(self._tolerance)
            best = factored(cut, pair, near=self._mean_a.of(pair), one_rank=self._context.one_rank)
            factors[pair.module] = best.b, best.a
            columns += min(cut.columns, pair.rank)
            dropped += max(0.0, exact.norm() ** 2 - cut.norm() ** 2) + best.dropped**2
        figures = {"truncation": math.sqrt(dropped), "kept_columns": float(columns)}
        return Outcome(self._mean.step(factors), figures=figures)


@dataclass(frozen=True)
class Florist:
    """The leading singular values that hold a share of the energy."""

    energy: Annotated[
        float, Field(gt=0, le=1, description="share tau of each module's squared singular values to keep")
    ] = 0.9

    def __call__(self, context: RoundContext) -> Accumulator:
        """Begin a round."""
        return _Round(context, self.energy)


FLORIST = Rule(
    name="florist",
    title="FLoRIST (arXiv 2506.09199)",
    computes="SVD of the exact mean cut where a share of each module's energy is kept, and at the server's rank",
    algorithm=Florist(),
    exactness=Exactness.UP_TO_TRUNCATION,
    ranks=ANY_RANK,
    resizing=Resizing.BEST,
)

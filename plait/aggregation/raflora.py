"""raFLoRA: rank partitions of the products, each averaged over the clients that have it.

Wu et al., "Preventing Rank Collapse in Federated Low-Rank Adaptation with Client Heterogeneity", arXiv 2602.13486. The
clients' ranks r_1 < r_2 < ... cut the slices into partitions (r_{h-1}, r_h]. FlexLoRA weighs every slice with p_k
although few clients have the later ones, so over the rounds the energy collapses into the smallest rank. Here

    M = sum over h of  sum over clients k with r_k >= r_h of  w_k / W_h  s_k B_k[:, h] A_k[h, :],

with W_h the weight of the owners of partition h, and then the best product of the server's rank. If all clients have
one rank this is FlexLoRA. Slices mean the same to all only if factors are ordered by singular values, as
`Resizing.BEST` returns them.
"""

from __future__ import annotations

import math
from itertools import pairwise

from plait.adapters import Float32
from plait.aggregation.contribution import ANY_RANK, Contribution
from plait.aggregation.geometry import Pair
from plait.aggregation.low_rank import LowRank
from plait.aggregation.product_sum import ProductSum
from plait.aggregation.projection import balanced
from plait.aggregation.round import Outcome, RoundContext
from plait.aggregation.rule import Resizing, Rule
from plait.aggregation.step import step_to
from plait.aggregation.weighted_sum import WeightedSum
from plait.errors import PeerError


class _Partitions:
    """The partitions of one module."""

    def __init__(self, pair: Pair, ranks: set[int]) -> None:
        self._bounds = tuple(pairwise([0, *sorted(ranks)]))
        self._sums = [ProductSum(pair.d_out, pair.d_in) for _ in self._bounds]
        self._weights = [0.0 for _ in self._bounds]
        self._zero = LowRank.zero(pair.d_out, pair.d_in)

    def ranks(self) -> set[int]:
        return {end for _, end in self._bounds}

    def add(self, pair: Pair, flat: Float32, weight: float) -> None:
        b, a = pair.b_of(flat), pair.a_of(flat)
        for h, (start, end) in enumerate(self._bounds):
            if end <= pair.rank:
                self._sums[h].add(b[:, start:end], a[start:end], weight * pair.scale)
                self._weights[h] += weight

    def mean(self) -> LowRank:
        mean = self._zero
        for product_sum, weight in zip(self._sums, self._weights, strict=True):
            if weight:
                mean = mean.plus(product_sum.total(), factor=1.0 / weight)
        return mean


class _Round:
    def __init__(self, context: RoundContext) -> None:
        self._context = context
        cohort = context.cohort or (context.geometry,)
        self._partitions = {
            pair.module: _Partitions(pair, {geometry.by_module[pair.module].rank for geometry in cohort})
            for pair in context.geometry.pairs
        }
        self._others = WeightedSum(context.geometry.others_size)

    def add(self, contribution: Contribution) -> None:
        for pair in contribution.geometry.pairs:
            ranks = self._partitions[pair.module].ranks()
            if pair.rank not in ranks:
                raise PeerError(
                    f"update of {contribution.client!r}: rank of '{pair.module}' is {pair.rank}, "
                    f"expected one of {', '.join(map(str, sorted(ranks)))}"
                )
        trained = contribution.received.flat + contribution.delta.flat
        for pair in contribution.geometry.pairs:
            self._partitions[pair.module].add(pair, trained, contribution.weight)
        self._others.add(contribution.geometry.others_of(contribution.delta.flat), contribution.weight)

    def finish(self) -> Outcome:
        geometry, dropped = self._context.geometry, 0.0
        wanted = self._context.master.flat.astype(float)
        others = geometry.others_of(wanted) + self._others.mean()
        for pair in geometry.pairs:
            mean = self._partitions[pair.module].mean()
            best = balanced(mean, rank=pair.rank, scale=pair.scale, spare=pair.a_of(wanted))
            pair.b_of(wanted)[:], pair.a_of(wanted)[:] = best.b, best.a
            dropped += best.dropped**2
        geometry.put_others(wanted, others)
        return Outcome(step_to(wanted, self._context.master), figures={"truncation": math.sqrt(dropped)})


RAFLORA = Rule(
    name="raflora",
    title="raFLoRA (arXiv 2602.13486)",
    computes="products of each rank slice averaged over the clients that have it, then cut to the server's rank",
    algorithm=_Round,
    ranks=ANY_RANK,
    resizing=Resizing.BEST,
    continuous=False,
)

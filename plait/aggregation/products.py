"""Rules that average products B A and decompose the mean.

FlexLoRA (arXiv 2402.11505): truncated singular value decomposition of sum p_k s_k B_k A_k, here of stacked factors.

raFLoRA (arXiv 2602.13486): the clients' ranks r_1 < r_2 < ... cut the slices into partitions (r_{h-1}, r_h]. With W_h
the weight of the owners of partition h, the best product of the server's rank for

    M = sum over h of  sum over clients k with r_k >= r_h of  w_k / W_h  s_k B_k[:, h] A_k[h, :].

FedSVD (arXiv 2505.12805): clients share A, so the mean of B is exact; B̄ A = U S V^T gives A' = V^T, B' = U S.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np

from plait.adapters import Float32
from plait.aggregation.factors import Factored, balanced, factored, kept_rank
from plait.aggregation.geometry import Pair, Side
from plait.aggregation.low_rank import Float64, LowRank
from plait.aggregation.means import Mean
from plait.aggregation.rule import ANY_RANK, Contribution, Exactness, Outcome, Resizing, RoundContext, Rule
from plait.aggregation.sums import ExactMean, ProductSum, WeightedSum, step_to
from plait.errors import PeerError


def _outcome(context: RoundContext, best_of: Callable[[Pair], Factored], others: Float64) -> Outcome:
    """The step to the best factors of each module; `others` is that of all other tensors."""
    geometry, dropped = context.geometry, 0.0
    wanted = context.master.flat.astype(np.float64)
    for pair in geometry.pairs:
        best = best_of(pair)
        pair.b_of(wanted)[:], pair.a_of(wanted)[:] = best.b, best.a
        dropped += best.dropped**2
    geometry.put_others(wanted, geometry.others_of(wanted) + others)
    return Outcome(step_to(wanted, context.master), figures={"truncation": math.sqrt(dropped)})


class _FlexLora:
    def __init__(self, context: RoundContext) -> None:
        self._context = context
        self._mean = ExactMean(context)
        self._deltas = WeightedSum(context.geometry.layout.size)

    def add(self, contribution: Contribution) -> None:
        self._mean.add(contribution)
        if contribution.geometry.layout.digest == self._context.geometry.layout.digest:
            self._deltas.add(contribution.delta.flat, contribution.weight)

    def finish(self) -> Outcome:
        return _outcome(self._context, self._best, self._mean.others())

    def _best(self, pair: Pair) -> Factored:
        # New factors stay close to the mean of the clients' trained A; to the master's where no client has its rank.
        # The A that was sent to clients would do for small steps only: the change of the clients' A would be missing
        # from the new A and be compensated in B, and at high learning rates the two diverge in size until training
        # breaks.
        near = pair.a_of(self._context.master.flat).astype(np.float64)
        if self._deltas.weight:
            near = near + pair.a_of(self._deltas.total()) / self._deltas.weight
        return factored(self._mean.product(pair), pair, near=near, one_rank=self._context.one_rank)


FLEXLORA = Rule(
    name="flexlora",
    title="FlexLoRA (arXiv 2402.11505)",
    computes="best product of the server's rank for the exact mean of the products, by SVD of the stacked factors",
    algorithm=_FlexLora,
    exactness=Exactness.UP_TO_TRUNCATION,
    ranks=ANY_RANK,
    resizing=Resizing.BEST,
)


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


class _RaFlora:
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
        return _outcome(self._context, self._best, self._others.mean())

    def _best(self, pair: Pair) -> Factored:
        spare = pair.a_of(self._context.master.flat).astype(np.float64)
        return balanced(self._partitions[pair.module].mean(), rank=pair.rank, scale=pair.scale, spare=spare)


RAFLORA = Rule(
    name="raflora",
    title="raFLoRA (arXiv 2602.13486)",
    computes="products of each rank slice averaged over the clients that have it, then cut to the server's rank",
    algorithm=_RaFlora,
    ranks=ANY_RANK,
    resizing=Resizing.BEST,
    continuous=False,
)


class _FedSvd(Mean):
    def __init__(self, context: RoundContext) -> None:
        super().__init__(context)
        self._context = context

    def finish(self) -> Outcome:
        wanted = self._context.master.flat + self.mean()
        for pair in self._context.geometry.pairs:
            b, a = _orthonormal(pair, wanted)
            pair.b_of(wanted)[:] = b
            pair.a_of(wanted)[:] = a
        return Outcome(step_to(wanted, self._context.master))


def _orthonormal(pair: Pair, flat: Float64) -> tuple[Float64, Float64]:
    old = LowRank(pair.b_of(flat).copy(), pair.a_of(flat).copy())
    svd = old.svd()
    used = kept_rank(svd.s, old)
    b, a = np.zeros_like(old.b), old.a
    b[:, :used] = svd.u[:, :used] * svd.s[:used]
    # Rows that the product does not use continue along the old A, made orthonormal to the others.
    q, _ = np.linalg.qr(np.vstack([svd.vt[:used], old.a]).T)
    rows = min(pair.rank, q.shape[1])
    a[:rows] = q.T[:rows]
    a[:used] = svd.vt[:used]
    return b, a


FEDSVD = Rule(
    name="fedsvd",
    title="FedSVD (arXiv 2505.12805)",
    computes="weighted mean of B over one A, then B A = U S V^T with A := V^T and B := U S; the product is exact",
    algorithm=_FedSvd,
    exactness=Exactness.EXACT,
    linear=True,
    frozen=(Side.A,),
    continuous=False,
)

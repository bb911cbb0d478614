"""Streaming product mean: the best adapter of a rank for the exact mean of the products, in one pass and fixed memory.

Our own rule. All clients of one rank train from the same received factors B, A, so with deltas dB_k, dA_k

    sum w_k B_k A_k  =  W (B + dB̄)(A + dA̅)  -  W dB̄ dA̅  +  sum w_k dB_k dA_k,        W = sum w_k.

The first two terms need the plain means only. The last one, second order in the steps and so far smaller than the
products, is all that must be compressed: a `ProductSketch` holds it at a rank of `oversampling` times the adapter's.
The sum of the three, of a few times the rank, is then cut to the rank exactly.

*Certificate.* Per module, let M be the exact mean, S its held form before the last cut, R the result. (1) ||M -
S|| <= D, where D is what the sketch lost over W (see `ProductSketch`): the other terms are exact. (2) ||S - R|| is
computed: the singular values cut last, and what float32 rounds off the factors. So ||M - R|| <= D + ||S - R||. Modules
are orthogonal to each other, so bounds of all modules add up in squares to `error_bound`. Further, with M_r the best
approximation of M of rank r and t the norm of what is cut last, t <= ||S - M_r|| <= D + ||M - M_r||, so the error
exceeds that of the best possible adapter by at most 2 D and the rounding: `excess_bound`. Both are reported in every
round, rounding of float64 left aside. `relative_error_bound` divides by ||S|| - D <= ||M||, and is left out where that
is not positive.

The factors are those nearest to the mean of A where all clients have one rank, so that steps stay small and optimizers
can continue, else balanced ones (`projection.factored`).
Clients of other ranks form separate groups by the adapter that they received.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from plait.adapters import AdapterState, Float32
from plait.aggregation.contribution import ANY_RANK, Contribution
from plait.aggregation.geometry import Geometry, Pair
from plait.aggregation.low_rank import Float64, LowRank
from plait.aggregation.product_probe import ProductProbe
from plait.aggregation.product_sketch import ProductSketch
from plait.aggregation.projection import factored
from plait.aggregation.round import Accumulator, Outcome, RoundContext
from plait.aggregation.rule import Exactness, Resizing, Rule
from plait.aggregation.step import landing, step_to
from plait.aggregation.weighted_sum import WeightedSum

# Clients of one rank have all received the same; more kinds than this are added whole, so that memory stays constant.
_LARGEST_GROUPS = 8


class _Group:
    """Clients that received the same adapter."""

    def __init__(self, geometry: Geometry, received: AdapterState) -> None:
        self.geometry = geometry
        self.received = received
        self.sum = WeightedSum(geometry.layout.size)

    def has(self, contribution: Contribution) -> bool:
        if self.geometry is not contribution.geometry and self.geometry.pairs != contribution.geometry.pairs:
            return False
        mine, theirs = self.received.flat, contribution.received.flat
        return mine is theirs or np.array_equal(mine, theirs)


class _Round:
    def __init__(self, context: RoundContext, oversampling: int) -> None:
        self._context = context
        self._groups: list[_Group] = []
        self._sketches = {
            pair.module: ProductSketch(pair.d_out, pair.d_in, rank=min(oversampling * pair.rank, pair.d_out, pair.d_in))
            for pair in context.geometry.pairs
        }
        generator = np.random.default_rng([context.seed, context.round])
        self._probes = {
            pair.module: ProductProbe(pair.d_out, pair.d_in, generator=generator) for pair in context.geometry.pairs
        }
        self._others = WeightedSum(context.geometry.others_size)

    def add(self, contribution: Contribution) -> None:
        geometry, weight = contribution.geometry, contribution.weight
        trained = contribution.received.flat + contribution.delta.flat
        group = self._group_of(contribution)
        if group is None:
            to_sketch = trained
        else:
            to_sketch = contribution.delta.flat
            group.sum.add(to_sketch, weight)
        for pair in geometry.pairs:
            self._probes[pair.module].add(pair.b_of(trained), pair.a_of(trained), weight * pair.scale)
            b, a = pair.b_of(to_sketch), pair.a_of(to_sketch)
            self._sketches[pair.module].add(b, a, weight * pair.scale)
        self._others.add(geometry.others_of(contribution.delta.flat), weight)

    def finish(self) -> Outcome:
        geometry, master = self._context.geometry, self._context.master
        wanted = master.flat.astype(np.float64)
        geometry.put_others(wanted, geometry.others_of(wanted) + self._others.mean())
        means = [group.sum.mean() for group in self._groups]
        held: dict[str, tuple[LowRank, float]] = {}
        for pair in geometry.pairs:
            total, lost = self._total(pair, means)
            best = factored(total, pair, near=self._mean_a(pair, means), one_rank=self._context.one_rank)
            pair.b_of(wanted)[:], pair.a_of(wanted)[:] = best.b, best.a
            held[pair.module] = total, lost
        step = step_to(wanted, master)
        return Outcome(step, figures=self._certificate(held, landing(step, master)))

    def _group_of(self, contribution: Contribution) -> _Group | None:
        for group in self._groups:
            if group.has(contribution):
                return group
        if len(self._groups) == _LARGEST_GROUPS:
            return None
        self._groups.append(_Group(contribution.geometry, contribution.received))
        return self._groups[-1]

    def _total(self, pair: Pair, means: list[Float64]) -> tuple[LowRank, float]:
        weight = self._others.weight
        sketch, lost = self._sketches[pair.module].result()
        total = sketch.scaled(1.0 / weight)
        for group, mean in zip(self._groups, means, strict=True):
            theirs = group.geometry.by_module[pair.module]
            share = theirs.scale * group.sum.weight / weight
            b, a = theirs.b_of(mean), theirs.a_of(mean)
            first = LowRank(
                theirs.b_of(group.received.flat) + b,
                theirs.a_of(group.received.flat) + a,
            )
            total = total.plus(first, factor=share).plus(LowRank(b, a), factor=-share)
        return total, lost / weight

    def _mean_a(self, pair: Pair, means: list[Float64]) -> Float64:
        a = pair.a_of(self._context.master.flat).astype(np.float64)
        same = [
            (group.sum.weight, group.geometry.by_module[pair.module].a_of(mean))
            for group, mean in zip(self._groups, means, strict=True)
            if group.geometry.by_module[pair.module].rank == pair.rank
        ]
        weight = sum(weight for weight, _ in same)
        return a + sum(w / weight * mean for w, mean in same) if same else a

    def _certificate(self, held: dict[str, tuple[LowRank, float]], landed: Float32) -> dict[str, float]:
        error = excess = least_size = size = sketch_loss = estimate = 0.0
        for pair in self._context.geometry.pairs:
            total, lost = held[pair.module]
            b, a = pair.b_of(landed).astype(np.float64), pair.a_of(landed).astype(np.float64)
            result = LowRank(pair.scale * b, a)
            cut = total.plus(result, factor=-1.0).norm()
            # The smallest possible distance of a product of this rank from the held one.
            least = float(np.linalg.norm(total.svd().s[pair.rank :]))
            norm = total.norm()
            error += (lost + cut) ** 2
            excess += (2.0 * lost + max(0.0, cut - least)) ** 2
            size += norm**2
            least_size += max(0.0, norm - lost) ** 2
            sketch_loss += lost**2
            estimate += self._probes[pair.module].squared_distance(result, divisor=self._others.weight)
        figures = {
            "error_bound": math.sqrt(error),
            "error_estimate": math.sqrt(estimate),
            "excess_bound": math.sqrt(excess),
            "sketch_loss_bound": math.sqrt(sketch_loss),
        }
        if least_size:
            figures["relative_error_bound"] = math.sqrt(error / least_size)
        if size:
            figures["relative_error_estimate"] = math.sqrt(estimate / size)
        return figures


@dataclass(frozen=True)
class ProductMean:
    """The best product of the server's rank, within a certified bound."""

    oversampling: Annotated[
        int,
        Field(
            ge=1,
            le=64,
            description="rank of the sketch of second-order terms, a multiple of the adapter's; more makes the bound "
            "smaller and costs memory and time",
        ),
    ] = 2

    def __call__(self, context: RoundContext) -> Accumulator:
        """Begin a round."""
        return _Round(context, self.oversampling)


PRODUCT_MEAN = Rule(
    name="product_mean",
    title="streaming product mean (plait)",
    computes="best product of the server's rank for the exact mean of the products, in one pass, error bound certified",
    algorithm=ProductMean(),
    exactness=Exactness.UP_TO_TRUNCATION,
    ranks=ANY_RANK,
    resizing=Resizing.BEST,
)

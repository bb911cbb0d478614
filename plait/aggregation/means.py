"""Rules that average factors, or the square matrices between fixed ones, without decomposing anything.

FedAvg (McMahan et al., arXiv 1602.05629, algorithm 1): w <- w + sum_k p_k d_k with d_k = w_k - w. On the factors of
LoRA this is FedIT (Zhang et al., arXiv 2305.05644). A and B are averaged separately, which leaves out the covariance of
the factors over the cohort, the last term of

    sum p_k B_k A_k  =  B̄ Ā  +  sum p_k (B_k - B̄)(A_k - Ā).

Where one side is the same for all, the mean of the other is the mean of the products: FFA-LoRA (Sun et al., arXiv
2403.12313) freezes A; RoLoRA (Chen et al., arXiv 2502.01755) freezes A and B in turn, B learning first, since a fresh
adapter has B = 0 and then A has no gradient; Fed-SB (Singhal et al., arXiv 2502.15436) trains R alone in W' = W + scale
* B R A (LoRA-XS, arXiv 2405.17604), so that the layout has no pair. In FedSA-LoRA (Guo et al., arXiv 2410.01463) every
client keeps its own B: there is no single product to be exact about, and the master's B does not change.

Clients of lower ranks get the leading slices of the master. HetLoRA (Cho et al., arXiv 2401.06432) pads factors with
zeros and weighs them by the Frobenius norms of their products (here times the client's own weight); its self-pruning
happens at the client, which appears here with a lower rank. Padding dilutes: slices that few clients have shrink
towards zero each round. RBLA (Tavallaie et al., arXiv 2408.08699) divides a slice by the weight of its owners only, and
a slice that no client has stays the master's.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from plait.adapters import AdapterState, Float32, Layout, Subject
from plait.aggregation.geometry import Geometry, Pair, Side
from plait.aggregation.low_rank import LowRank
from plait.aggregation.rule import UP_TO_SERVER, Contribution, Exactness, Outcome, RoundContext, Rule
from plait.aggregation.sums import SliceSum, WeightedSum, step_to


class Mean:
    """The weighted mean of the deltas, rounded once: enough for any rule that is linear in the updates."""

    def __init__(self, context: RoundContext) -> None:
        self._layout = context.geometry.layout
        self._sum = WeightedSum(self._layout.size)

    def add(self, contribution: Contribution) -> None:
        """Add n_k d_k."""
        self._sum.add(contribution.delta.flat, contribution.weight)

    def mean(self) -> NDArray[np.float64]:
        """The mean delta, (layout.size,)."""
        return self._sum.mean()

    def finish(self) -> Outcome:
        """The mean delta as the step."""
        return Outcome(AdapterState(self._layout, self._sum.mean().astype(np.float32)))


FEDAVG = Rule(
    name="fedavg",
    title="FedIT: FedAvg on LoRA factors (arXiv 1602.05629, 2305.05644)",
    computes="weighted mean of every tensor; of B and A separately, so off by their covariance over the cohort",
    algorithm=Mean,
    subject=Subject.TENSORS,
    linear=True,
)

FEDSA = Rule(
    name="fedsa",
    title="FedSA-LoRA (arXiv 2410.01463)",
    computes="weighted mean of A; B stays at each client, so models are personal and have no common product",
    algorithm=Mean,
    linear=True,
    personal=Side.B,
)

FFA = Rule(
    name="ffa",
    title="FFA-LoRA (arXiv 2403.12313)",
    computes="weighted mean of B over one frozen A, which is the exact mean of the products",
    algorithm=Mean,
    exactness=Exactness.EXACT,
    linear=True,
    frozen=(Side.A,),
)

ROLORA = Rule(
    name="rolora",
    title="RoLoRA (arXiv 2502.01755)",
    computes="weighted mean of B in odd and of A in even rounds, the other side frozen: the exact mean of the products",
    algorithm=Mean,
    exactness=Exactness.EXACT,
    linear=True,
    frozen=(Side.A, Side.B),
)

FEDSB = Rule(
    name="fedsb",
    title="Fed-SB on LoRA-XS (arXiv 2502.15436, 2405.17604)",
    computes="weighted mean of the square matrices R between fixed B and A, which is the exact mean of B R A",
    algorithm=Mean,
    subject=Subject.SQUARES,
    exactness=Exactness.EXACT,
    linear=True,
)


def square_geometry(factors: Geometry) -> Geometry:
    """LoRA-XS on the modules of a LoRA adapter: a square matrix of each pair's rank, all other tensors the same."""
    shapes = {f"{pair.module}.lora_R": (pair.rank, pair.rank) for pair in factors.pairs}
    layout = Layout.of({**shapes, **{slot.name: slot.shape for slot in factors.others}})
    return Geometry(layout, (), layout.slots)


class SliceMean:
    """The mean of the slices of factors: a module in which no client has a nonzero product stays unchanged.

    Args:
        by_norm: whether a client is also weighted by the norm of its product.
        of_owners: whether a slice is divided by the weight of the clients that have it, not of all.
    """

    def __init__(self, context: RoundContext, *, by_norm: bool = False, of_owners: bool = False) -> None:
        self._context, self._by_norm, self._of_owners = context, by_norm, of_owners
        self._slices = SliceSum(context.geometry)
        self._others = WeightedSum(context.geometry.others_size)

    def add(self, contribution: Contribution) -> None:
        """Add one client's delta."""
        trained = contribution.received.flat + contribution.delta.flat
        for pair in contribution.geometry.pairs:
            norm = _product_norm(pair, trained) if self._by_norm else 1.0
            self._slices.add(pair, trained, contribution.weight * norm)
        self._others.add(contribution.geometry.others_of(contribution.delta.flat), contribution.weight)

    def finish(self) -> Outcome:
        """The step to the mean."""
        geometry, slices = self._context.geometry, self._slices
        wanted = self._context.master.flat.astype(np.float64)
        for pair in geometry.pairs:
            b, a = pair.b_of(wanted), pair.a_of(wanted)
            if self._of_owners:
                b[:], a[:] = slices.mean_of_owners(pair, b=b, a=a)
            elif slices.weight(pair) > 0:
                b[:], a[:] = slices.mean_of_all(pair)
        geometry.put_others(wanted, geometry.others_of(wanted) + self._others.mean())
        return Outcome(step_to(wanted, self._context.master))


def _product_norm(pair: Pair, flat: Float32) -> float:
    return pair.scale * LowRank(pair.b_of(flat).astype(float), pair.a_of(flat).astype(float)).norm()


HETLORA = Rule(
    name="hetlora",
    title="HetLoRA (arXiv 2401.06432)",
    computes="mean of zero-padded B and A, each client weighted by its weight times the norm of its product",
    algorithm=partial(SliceMean, by_norm=True),
    ranks=UP_TO_SERVER,
)

ZEROPAD = Rule(
    name="zeropad",
    title="zero padding, the baseline of HetLoRA (arXiv 2401.06432)",
    computes="weighted mean of zero-padded B and A; slices that few clients have are diluted",
    algorithm=SliceMean,
    linear=True,
    ranks=UP_TO_SERVER,
)

RBLA = Rule(
    name="rbla",
    title="RBLA (arXiv 2408.08699)",
    computes="weighted mean of each rank slice of B and A over the clients that have it, without dilution",
    algorithm=partial(SliceMean, of_owners=True),
    linear=True,
    ranks=UP_TO_SERVER,
)

"""Rules that average factors, or the square matrices between fixed ones, without decomposing anything.

FedAvg (arXiv 1602.05629, algorithm 1) on the factors of LoRA is FedIT (arXiv 2305.05644). It leaves out the covariance
of the factors over the cohort, the last term of

    sum p_k B_k A_k  =  B̄ Ā  +  sum p_k (B_k - B̄)(A_k - Ā).

Where one side is the same for all, the mean of the other is exact: FFA-LoRA (arXiv 2403.12313) freezes A, RoLoRA (arXiv
2502.01755) A and B in turn, Fed-SB (arXiv 2502.15436) trains R alone in W' = W + scale * B R A (LoRA-XS, arXiv
2405.17604). In FedSA-LoRA (arXiv 2410.01463) every client keeps its own B.
"""

import numpy as np
from numpy.typing import NDArray

from plait.adapters import AdapterState, Layout, Subject
from plait.aggregation.geometry import Geometry, Side
from plait.aggregation.rule import Contribution, Exactness, Outcome, RoundContext, Rule
from plait.aggregation.sums import WeightedSum


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

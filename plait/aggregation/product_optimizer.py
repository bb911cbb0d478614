"""Server optimizers that do not depend on how a product is split into factors.

For an invertible G, (B G^-1)(G A) is the same model, but momentum or FedAdam on B and A gives another result for each
G, and a rule that changes the factors makes the previous momentum meaningless. Here the pseudo-gradient is the change
of the product itself, D = s (B' A' - B A), a matrix of rank 2 r at most. Its momentum is a low-rank matrix too, cut to
a few times the rank; the new adapter is the best of rank r for the target product. The adaptive variant divides by the
root of a running mean of ||D||_F^2, one number for each module: a norm is invariant under rotations, element squares
are not. All other tensors are treated the same way, as one vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from plait.aggregation.geometry import Pair
from plait.aggregation.low_rank import Float64, LowRank
from plait.aggregation.projection import kept
from plait.aggregation.round import Outcome, RoundContext
from plait.aggregation.server_optimizer import Adjusted, OptimizerState
from plait.aggregation.step import landing, step_to
from plait.traits import Reasons

# Columns of the momentum of a module, as a multiple of the rank.
_MOMENTUM_RANKS = 4


@dataclass(frozen=True)
class ProductSpace:
    """Momentum, and optionally an adaptive step, on products.

    Attributes:
        name: what the user gives.
        lr: multiplies the momentum; if adaptive, about the Frobenius norm of the change of a module.
        momentum: beta of M <- beta M + D, if adaptive M <- beta M + (1 - beta) D.
        nesterov: look ahead: step along D + beta M; not if adaptive.
        adaptive: divide by sqrt(v) + tau with v <- beta2 v + (1 - beta2) ||D||^2, v = tau^2 at first.
    """

    name: str = "product_sgd"
    lr: Annotated[float, Field(gt=0, description="multiplies the momentum")] = 1.0
    momentum: Annotated[float, Field(ge=0, lt=1, description="decay of earlier steps")] = 0.0
    nesterov: bool = False
    adaptive: bool = False
    beta2: Annotated[float, Field(ge=0, lt=1, description="decay of v, where adaptive")] = 0.99
    tau: Annotated[float, Field(gt=0, le=1, description="adaptivity, where adaptive")] = 1e-3

    needs: ClassVar[Reasons] = {}

    @property
    def copies(self) -> int:
        """The momentum has a few times the rank, in float64."""
        return 2 * _MOMENTUM_RANKS if self.momentum else 0

    def adjust(self, outcome: Outcome, memory: OptimizerState, context: RoundContext) -> Adjusted:
        """Compute the target product beyond or before the rule's, and take the step to the nearest adapter."""
        geometry, master = context.geometry, context.master
        landed = landing(outcome.step, master)
        wanted = landed.astype(np.float64)
        kept_memory: dict[str, Float64] = {}
        for pair in geometry.pairs:
            before, after = _product(pair, master.flat), _product(pair, landed)
            way = self._way(pair.module, after.plus(before, factor=-1.0), memory, kept_memory)
            best = kept(before.plus(way), scale=pair.scale, near=pair.a_of(wanted))
            pair.b_of(wanted)[:], pair.a_of(wanted)[:] = best.b, best.a
        if geometry.others:
            old = geometry.others_of(master.flat).astype(np.float64)
            change = LowRank((geometry.others_of(landed) - old)[:, None], np.ones((1, 1)))
            way = self._way("", change, memory, kept_memory)
            geometry.put_others(wanted, old + (way.b @ way.a)[:, 0])
        return step_to(wanted, master), kept_memory

    def _way(self, module: str, change: LowRank, memory: OptimizerState, kept_memory: dict[str, Float64]) -> LowRank:
        beta, momentum = self.momentum, change
        rate = self.lr
        share = 1.0 - beta if self.adaptive else 1.0
        if beta:
            momentum = change.scaled(share)
            if f"{module}.b" in memory:
                old = LowRank(_float64(memory, f"{module}.b"), _float64(memory, f"{module}.a"))
                momentum = momentum.plus(old, factor=beta)
            momentum = _cut(momentum, columns=max(1, _MOMENTUM_RANKS * change.columns // 2))
            kept_memory[f"{module}.b"], kept_memory[f"{module}.a"] = momentum.b, momentum.a
        if self.adaptive:
            old_square = float(_float64(memory, f"{module}.v")[0]) if f"{module}.v" in memory else self.tau**2
            square = self.beta2 * old_square + (1.0 - self.beta2) * change.norm() ** 2
            kept_memory[f"{module}.v"] = np.array([square])
            rate /= np.sqrt(square) + self.tau
        elif self.nesterov:
            momentum = change.plus(momentum, factor=beta)
        return momentum.scaled(rate)


def _product(pair: Pair, flat: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> LowRank:
    return LowRank(pair.scale * pair.b_of(flat).astype(np.float64), pair.a_of(flat).astype(np.float64))


def _cut(matrix: LowRank, *, columns: int) -> LowRank:
    if matrix.columns <= columns:
        return matrix
    svd = matrix.svd()
    return LowRank(svd.u[:, :columns] * svd.s[:columns], svd.vt[:columns])


def _float64(memory: OptimizerState, name: str) -> Float64:
    return memory[name].astype(np.float64, copy=False)


PRODUCT_ADAM = ProductSpace("product_adam", adaptive=True)
PRODUCT_NESTEROV, PRODUCT_SGD = ProductSpace("product_nesterov", nesterov=True), ProductSpace("product_sgd")

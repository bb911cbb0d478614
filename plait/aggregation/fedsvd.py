"""FedSVD: clients train B, the server averages it and re-factors the product so that A has orthonormal rows.

Lee et al., "FedSVD: Adaptive Orthogonalization for Private Federated Learning with LoRA", arXiv 2505.12805. Clients
share A, so the mean of B is exact; the singular value decomposition B̄ A = U S V^T has rank r at most, so A' = V^T, B'
= U S loses nothing. Done after every round.
"""

from __future__ import annotations

import numpy as np

from plait.aggregation.contribution import Contribution
from plait.aggregation.fedavg import Mean
from plait.aggregation.geometry import Pair, Side
from plait.aggregation.low_rank import Float64, LowRank, kept_rank
from plait.aggregation.round import Outcome, RoundContext
from plait.aggregation.rule import Exactness, Rule
from plait.aggregation.step import step_to


class _Round:
    def __init__(self, context: RoundContext) -> None:
        self._context = context
        self._mean = Mean(context)

    def add(self, contribution: Contribution) -> None:
        self._mean.add(contribution)

    def finish(self) -> Outcome:
        wanted = self._context.master.flat + self._mean.mean()
        for pair in self._context.geometry.pairs:
            b, a = _orthonormal(pair, wanted)
            pair.b_of(wanted)[:] = b
            pair.a_of(wanted)[:] = a
        return Outcome(step_to(wanted, self._context.master))


def _orthonormal(pair: Pair, flat: Float64) -> tuple[Float64, Float64]:
    old = LowRank(pair.b_of(flat).copy(), pair.a_of(flat).copy())
    svd = old.svd()
    used = kept_rank(svd.s, tolerance=0.0, dimension=max(pair.d_in, pair.d_out))
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
    algorithm=_Round,
    exactness=Exactness.EXACT,
    linear=True,
    frozen=(Side.A,),
    continuous=False,
)

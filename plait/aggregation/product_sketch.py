"""A sketch of fixed rank of a sum of products, with a certified bound on its loss.

Incremental singular value decomposition: new factors wait until they have twice as many columns as the sketch, then
sketch and new factors are decomposed together through QR and cut to the sketch's rank again. (Waiting for fewer takes
as long and cuts more often, which adds to the bound below.) Let T_t be what was cut at time t. The sum is exactly the
sketch plus the sum of all T_t, so by the triangle inequality

    || sum - sketch ||_F  <=  sum over t of || T_t ||_F,

and || T_t ||_F is the root of the sum of squares of the discarded singular values: known, and added up as `lost`.
Knows no adapter and no client.
"""

from __future__ import annotations

import numpy as np

from plait.adapters import Float32
from plait.aggregation.low_rank import Float64, LowRank

# Columns that wait for a cut, as a multiple of the sketch's.
_WAITING_RANKS = 2


class ProductSketch:
    """Sum of coefficient * b @ a over all calls of `add`, cut to `rank` occasionally.

    Args:
        rank: of the sketch, the columns that remain after a cut.
    """

    def __init__(self, d_out: int, d_in: int, *, rank: int) -> None:
        self._sketch = LowRank.zero(d_out, d_in)
        self._rank = rank
        self._waiting: list[tuple[Float32, Float32, float]] = []
        self._columns = 0
        self._lost = 0.0

    def add(self, b: Float32, a: Float32, coefficient: float) -> None:
        """Add coefficient * b @ a; b: (d_out, n) and a: (n, d_in) are copied."""
        self._waiting.append((b.copy(), a.copy(), coefficient))
        self._columns += b.shape[1]
        if self._columns >= _WAITING_RANKS * self._rank:
            self._fold()

    def result(self) -> tuple[LowRank, float]:
        """The sketch, of at most `rank` columns, and the bound on its distance from the sum in Frobenius norm."""
        self._fold()
        return self._sketch, self._lost

    def _fold(self) -> None:
        if not self._waiting:
            return
        b: list[Float64] = [self._sketch.b, *(np.multiply(b, c, dtype=np.float64) for b, _, c in self._waiting)]
        a = [self._sketch.a, *(a.astype(np.float64) for _, a, _ in self._waiting)]
        self._waiting.clear()
        self._columns = 0
        whole = LowRank(np.hstack(b), np.vstack(a))
        if whole.columns <= self._rank:
            self._sketch = whole
            return
        svd = whole.svd()
        self._lost += float(np.linalg.norm(svd.s[self._rank :]))
        self._sketch = LowRank(svd.u[:, : self._rank] * svd.s[: self._rank], svd.vt[: self._rank])

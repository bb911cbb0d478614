"""The exact sum of scaled products c_k B_k A_k of one module as factors.

Stacking [c_1 B_1, c_2 B_2, ...] and [A_1; A_2; ...] is the sum (FLoRA, arXiv 2409.05976), at K times the size of an
adapter for K clients. But no matrix has a rank above the shorter of its sides, so once more columns wait than that, QR
of one stack reduces the sum to that many without loss. Memory is therefore bounded by about three times the adapted
weights in float64, regardless of the number of clients.
"""

from __future__ import annotations

import numpy as np

from plait.adapters import Float32
from plait.aggregation.low_rank import Float64, LowRank


class ProductSum:
    """The sum of the products of one module."""

    def __init__(self, d_out: int, d_in: int) -> None:
        self._folded = LowRank.zero(d_out, d_in)
        self._waiting: list[tuple[Float32, Float32, float]] = []
        self._columns = 0

    def add(self, b: Float32, a: Float32, coefficient: float) -> None:
        """Add coefficient * b @ a; b: (d_out, n) and a: (n, d_in) are copied."""
        self._waiting.append((b.copy(), a.copy(), coefficient))
        self._columns += b.shape[1]
        if self._columns >= self._folded.largest_rank:
            self._fold()

    def total(self) -> LowRank:
        """The sum, in at most twice as many columns as its rank can be."""
        self._fold()
        return self._folded

    def _fold(self) -> None:
        if not self._waiting:
            return
        folded = self._folded
        b: list[Float64] = [folded.b, *(np.multiply(b, c, dtype=np.float64) for b, _, c in self._waiting)]
        a = [folded.a, *(a.astype(np.float64) for _, a, _ in self._waiting)]
        self._folded = LowRank(np.hstack(b), np.vstack(a)).fitted()
        self._waiting.clear()
        self._columns = 0

"""The exact sum of scaled products c_k B_k A_k as factors, for all modules of an adapter.

Stacking [c_1 B_1, c_2 B_2, ...] and [A_1; A_2; ...] is the sum (FLoRA, arXiv 2409.05976), at K times the size of an
adapter for K clients. But no matrix has a rank above the shorter of its sides, so once more columns wait than that, QR
of one stack reduces the sum to that many without loss. Memory is therefore bounded by about three times the adapted
weights in float64, regardless of the number of clients.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from plait.adapters import Float32
from plait.aggregation.geometry import Geometry
from plait.aggregation.low_rank import Float64, LowRank


class ProductSum:
    """Sum of products of one module.

    Args:
        d_out: rows of B.
        d_in: columns of A.
    """

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


class ProductSums:
    """A `ProductSum` for each module.

    Args:
        geometry: names the modules and their sides; ranks do not matter.
    """

    def __init__(self, geometry: Geometry) -> None:
        self._sums = {pair.module: ProductSum(pair.d_out, pair.d_in) for pair in geometry.pairs}

    def add(self, geometry: Geometry, flat: Float32, weight: float) -> None:
        """Add weight * scale * B A for each pair of `geometry`, whose factors are in `flat`."""
        for pair in geometry.pairs:
            self._sums[pair.module].add(pair.b_of(flat), pair.a_of(flat), weight * pair.scale)

    def add_module(self, module: str, *, b: Float32, a: Float32, coefficient: float) -> None:
        """Add coefficient * b @ a to one module."""
        self._sums[module].add(b, a, coefficient)

    def items(self) -> Iterable[tuple[str, LowRank]]:
        """Modules and their sums so far."""
        return ((module, product_sum.total()) for module, product_sum in self._sums.items())

    def total(self, module: str) -> LowRank:
        """The sum of one module so far."""
        return self._sums[module].total()

"""Weighted sums of the factors of clients of different ranks, slice by slice, in the server's layout.

Slice i is row i of A and column i of B. A client of rank r_k owns the first r_k slices; the factors are converted to
the server's scale, so that a product keeps its meaning where alpha or rank differ: scale_k B_k A_k = scale (f B_k)(f
A_k) with f = sqrt(scale_k / scale). Knows no rule: the caller decides whether a slice is divided by the weight of its
owners or of all clients.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from plait.adapters import Float32
from plait.aggregation.geometry import Geometry, Pair
from plait.aggregation.low_rank import Float64


class SliceSum:
    """The sums of one round.

    Args:
        server: the layout and scales to sum in; its ranks are the largest allowed.
    """

    def __init__(self, server: Geometry) -> None:
        self._server = server
        self._sum: NDArray[np.float64] = np.zeros(server.layout.size, np.float64)
        self._owners = {pair.module: np.zeros(pair.rank) for pair in server.pairs}
        self._weights = {pair.module: 0.0 for pair in server.pairs}

    def add(self, pair: Pair, flat: Float32, weight: float) -> None:
        """Add one pair of a client's factors, from `flat` in the client's layout."""
        ours = self._server.by_module[pair.module]
        factor = weight * (pair.scale / ours.scale) ** 0.5
        ours.a_of(self._sum)[: pair.rank] += np.multiply(pair.a_of(flat), factor, dtype=np.float64)
        ours.b_of(self._sum)[:, : pair.rank] += np.multiply(pair.b_of(flat), factor, dtype=np.float64)
        self._owners[pair.module][: pair.rank] += weight
        self._weights[pair.module] += weight

    def pair(self, module: str) -> Pair:
        """The pair that the sums of a module have."""
        return self._server.by_module[module]

    def weight(self, pair: Pair) -> float:
        """Sum of the weights in a server's pair."""
        return self._weights[pair.module]

    def mean_of_all(self, pair: Pair) -> tuple[Float64, Float64]:
        """B and A of a server's pair, where a client counts as zero on slices it does not have."""
        weight = self.weight(pair)
        return pair.b_of(self._sum) / weight, pair.a_of(self._sum) / weight

    def mean_of_owners(self, pair: Pair, *, b: Float64, a: Float64) -> tuple[Float64, Float64]:
        """B and A of a server's pair, each slice the mean over its owners; `b` and `a` where there are none."""
        owners = self._owners[pair.module]
        owned = owners > 0
        b, a = b.copy(), a.copy()
        b[:, owned] = pair.b_of(self._sum)[:, owned] / owners[owned]
        a[owned] = pair.a_of(self._sum)[owned] / owners[owned, None]
        return b, a

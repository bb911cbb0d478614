"""An unbiased estimate of how far a sum of products is from a matrix, without keeping the sum.

For a Gaussian Omega (d_in, q) the exact image of the sum, sum of c B (A Omega), is cheap to keep up to date, and E || X
Omega ||_F^2 = q || X ||_F^2 for any fixed X (Halko, Martinsson and Tropp, arXiv 0909.4061, section 4.3). With X the sum
less a result, that estimates the squared error with a relative standard deviation of at most sqrt(2 / q), far less
where the error is spread over many directions, as a sketch's loss is. It is an estimate, not a certificate: a
certified bound adds up the norms of all losses as if they pointed the same way, which they do not.
"""

from __future__ import annotations

import numpy as np

from plait.adapters import Float32
from plait.aggregation.low_rank import Float64, LowRank

_PROBES = 16


class ProductProbe:
    """The image of a sum of coefficient * b @ a under a few random directions."""

    def __init__(self, d_out: int, d_in: int, *, generator: np.random.Generator) -> None:
        self._directions = generator.standard_normal((d_in, _PROBES))
        self._image: Float64 = np.zeros((d_out, _PROBES))

    def add(self, b: Float32, a: Float32, coefficient: float) -> None:
        """Add coefficient * b @ a; b: (d_out, n), a: (n, d_in)."""
        self._image += coefficient * (b.astype(np.float64) @ (a.astype(np.float64) @ self._directions))

    def squared_distance(self, matrix: LowRank, *, divisor: float) -> float:
        """Estimate of the squared Frobenius norm of the sum over `divisor` less `matrix`."""
        error = self._image / divisor - matrix.b @ (matrix.a @ self._directions)
        return float(np.square(error).sum()) / _PROBES

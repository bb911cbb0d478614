"""Matrices as products of two thin factors, which nothing forms: by B = Q_b R_b, A^T = Q_a R_a and R_b R_a^T."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import cast

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Svd:
    """Singular value decomposition of a product: u (d_out, n), s (n,), not increasing, and vt (n, d_in).

    The element of largest magnitude of each row of vt is positive, so signs do not depend on the library.
    """

    u: Float64
    s: Float64
    vt: Float64


@dataclass(frozen=True, eq=False)
class LowRank:
    """The matrix b @ a of b (d_out, n) and a (n, d_in)."""

    b: Float64
    a: Float64

    @classmethod
    def zero(cls, d_out: int, d_in: int) -> LowRank:
        """The matrix of zeros, with no columns at all."""
        return cls(np.zeros((d_out, 0)), np.zeros((0, d_in)))

    @property
    def columns(self) -> int:
        """How many rank-one terms it is held as, at least its rank."""
        return self.b.shape[1]

    @property
    def largest_rank(self) -> int:
        """The rank that no matrix of this shape exceeds."""
        return min(self.b.shape[0], self.a.shape[1])

    def plus(self, other: LowRank, *, factor: float = 1.0) -> LowRank:
        """This matrix plus `factor` times another."""
        return LowRank(np.hstack([self.b, factor * other.b]), np.vstack([self.a, other.a]))

    def scaled(self, factor: float) -> LowRank:
        """This matrix `factor` times."""
        return LowRank(factor * self.b, self.a)

    def norm(self) -> float:
        """Frobenius norm, with an error relative to the terms of about float64's rounding."""
        return float(np.linalg.norm(common_cores([self])[0]))

    def svd(self) -> Svd:
        """All singular values that can be other than zero, at most `columns`."""
        q_b, r_b = np.linalg.qr(self.b)
        q_a, r_a = np.linalg.qr(self.a.T)
        u, s, vt = np.linalg.svd(r_b @ r_a.T, full_matrices=False)
        vt = vt @ q_a.T
        signs = np.sign(vt[np.arange(len(vt)), np.abs(vt).argmax(axis=1)])
        return Svd(q_b @ u * signs, s, vt * signs[:, None])

    def fitted(self) -> LowRank:
        """The same matrix in at most `largest_rank` columns: nothing is lost but rounding."""
        if self.columns <= self.largest_rank:
            return self
        if self.b.shape[0] <= self.a.shape[1]:
            q, r = np.linalg.qr(self.b)
            return LowRank(q, r @ self.a)
        q, r = np.linalg.qr(self.a.T)
        return LowRank(self.b @ r.T, q.T)


def common_cores(matrices: Sequence[LowRank]) -> list[Float64]:
    """Small matrices of one shape, with the norms and singular values of these and of their sums."""
    # numpy's types do not distinguish this mode.
    r_b, r_a = (
        cast("Float64", np.linalg.qr(np.hstack(sides), mode="r"))
        for sides in ([matrix.b for matrix in matrices], [matrix.a.T for matrix in matrices])
    )
    bounds = list(accumulate((matrix.columns for matrix in matrices), initial=0))
    return [r_b[:, first:end] @ r_a[:, first:end].T for first, end in pairwise(bounds)]

"""Matrices as products of two thin factors, and factors of a rank for such a product.

Nothing forms the product. With the QR decompositions B = Q_b R_b and A^T = Q_a R_a it is Q_b (R_b R_a^T) Q_a^T, and the
small core in the middle has its norm and its singular values.

The best approximation of rank r is the truncated singular value decomposition (Eckart-Young). A product does not
determine its factors: any invertible G gives (B G^-1)(G A). Two choices are made here. *Balanced* factors share the
singular values evenly. *Kept* factors are those nearest to the previous A, so that a step of the adapter stays small
and optimizers can continue. They are used where all clients have one rank: what is cut for a lower rank has other
directions in every round, and staying near the previous A makes factors ever worse conditioned. Directions that the
product does not use get a row of A but a zero column of B, as in a fresh adapter: were both zero, no gradient would
ever reach them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import cast

import numpy as np
from numpy.typing import NDArray

from plait.adapters import AdapterState
from plait.aggregation.geometry import Geometry, Pair
from plait.aggregation.rule import Resizing

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
    """The matrix b @ a.

    `b` is (d_out, n), `a` (n, d_in).
    """

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
    """Small matrices with the norms and singular values of these, and their sums with those of these matrices' sums.

    They are what is left of each matrix in two bases that all of them share.

    Args:
        matrices: of one shape, at least one.

    Returns:
        All of one shape, (at most d_out, at most d_in).
    """
    # numpy's types do not tell this mode from the others.
    r_b, r_a = (
        cast("Float64", np.linalg.qr(np.hstack(sides), mode="r"))
        for sides in ([matrix.b for matrix in matrices], [matrix.a.T for matrix in matrices])
    )
    bounds = list(accumulate((matrix.columns for matrix in matrices), initial=0))
    return [r_b[:, first:end] @ r_a[:, first:end].T for first, end in pairwise(bounds)]


def kept_rank(s: Float64, product: LowRank) -> int:
    """How many leading singular values, not increasing, of a product are more than rounding can explain."""
    rounding = s[:1] * max(product.b.shape[0], product.a.shape[1]) * np.finfo(np.float64).eps
    return int(np.count_nonzero(s > rounding))


# Kept factors of a worse condition would lose digits in float32; balanced ones are taken instead.
_LARGEST_CONDITION = 100.0


@dataclass(frozen=True, eq=False)
class Factored:
    """Factors of the best approximation of a product.

    Attributes:
        b: (d_out, rank) float64.
        a: (rank, d_in) float64; scale * b @ a is the approximation.
        dropped: Frobenius norm of the part beyond the rank.
    """

    b: Float64
    a: Float64
    dropped: float


def balanced(product: LowRank, *, rank: int, scale: float, spare: Float64) -> Factored:
    """The best factors of `rank` that share the singular values evenly, largest first.

    Args:
        product: the target of scale * b @ a.
        spare: (rank, d_in), where unused rows of A come from.
    """
    svd = product.svd()
    used = min(rank, kept_rank(svd.s, product))
    root = np.sqrt(svd.s[:used] / scale)
    b, a = np.zeros((product.b.shape[0], rank)), spare.astype(np.float64, copy=True)
    b[:, :used] = svd.u[:, :used] * root
    a[:used] = root[:, None] * svd.vt[:used]
    return Factored(b, a, float(np.linalg.norm(svd.s[used:])))


def kept(product: LowRank, *, scale: float, near: Float64) -> Factored:
    """The best factors whose A is nearest to `near`, or balanced ones where that would be ill-conditioned.

    With the leading right singular vectors V (d_in, e) and G = near V (rank, e), A = G V^T + (I - G G^+) near and
    B = U S G^+ / scale give scale * B A = U S V^T, since G^+ (I - G G^+) = 0.

    Args:
        product: the target of scale * b @ a.
        near: (rank, d_in), the A to stay close to.
    """
    rank = len(near)
    svd = product.svd()
    used = min(rank, kept_rank(svd.s, product))
    v = svd.vt[:used].T
    g = near @ v
    strengths = np.linalg.svd(g, compute_uv=False)
    if used and not strengths[-1] * _LARGEST_CONDITION > strengths[0]:
        return balanced(product, rank=rank, scale=scale, spare=near)
    inverse = np.linalg.pinv(g) if used else np.zeros((0, rank))
    a = g @ v.T + near - g @ (inverse @ near)
    b = svd.u[:, :used] * svd.s[:used] @ inverse / scale
    return Factored(b, a, float(np.linalg.norm(svd.s[used:])))


def factored(product: LowRank, pair: Pair, *, near: Float64, one_rank: bool) -> Factored:
    """The best factors of a pair's rank: near the previous ones if all clients have this rank, else balanced.

    Args:
        product: the target of the pair's scale times its B A.
        near: (rank, d_in), the previous A.
        one_rank: whether all clients have the pair's rank.
    """
    if one_rank:
        return kept(product, scale=pair.scale, near=near)
    return balanced(product, rank=pair.rank, scale=pair.scale, spare=near)


def fitted(
    state: AdapterState, *, source: Geometry, target: Geometry, resizing: Resizing, fresh: AdapterState
) -> AdapterState:
    """An adapter converted to another rank, for a client or for export.

    Products keep their meaning where scales differ. Pairs of equal rank and scale are returned unchanged.

    Args:
        target: of the wanted adapter, on the same modules.
        resizing: BEST for the best product of a lower rank, SLICE for the leading rows of A and columns of B.
        fresh: an adapter in the layout of `target` (the initial one), from which directions that `state` does not use
            get their rows of A.
    """
    if source.layout.digest == target.layout.digest and source.pairs == target.pairs:
        return state
    flat = np.empty(target.layout.size, np.float32)
    target.put_others(flat, source.others_of(state.flat))
    for theirs in target.pairs:
        ours = source.by_module[theirs.module]
        factors = _fit_pair(state, ours, theirs, resizing, fresh)
        theirs.b_of(flat)[:] = factors.b
        theirs.a_of(flat)[:] = factors.a
    return AdapterState(target.layout, flat)


def _fit_pair(state: AdapterState, ours: Pair, theirs: Pair, resizing: Resizing, fresh: AdapterState) -> Factored:
    # The root goes to each factor, so that theirs.scale * b @ a is what ours.scale * b @ a was.
    root = (ours.scale / theirs.scale) ** 0.5
    b = root * ours.b_of(state.flat).astype(np.float64)
    a = root * ours.a_of(state.flat).astype(np.float64)
    spare = theirs.a_of(fresh.flat).astype(np.float64)
    shared = min(ours.rank, theirs.rank)
    if theirs.rank < ours.rank and resizing is Resizing.BEST:
        if not b.any():
            # A fresh adapter stays fresh: its rows of A, not those of a singular value decomposition of zero.
            return Factored(b[:, :shared], a[:shared], 0.0)
        return balanced(LowRank(theirs.scale * b, a), rank=theirs.rank, scale=theirs.scale, spare=spare)
    padded_b = np.zeros((theirs.d_out, theirs.rank))
    padded_b[:, :shared] = b[:, :shared]
    spare[:shared] = a[:shared]
    return Factored(padded_b, spare, 0.0)

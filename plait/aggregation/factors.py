"""Factors of a given rank for a product of thin matrices: the truncated singular value decomposition (Eckart-Young).

*Balanced* factors share the singular values evenly. *Kept* factors are nearest to the previous A, so that a step stays
small; they are used where all clients have one rank. Directions without use get a row of A but a zero column of B, as
in a fresh adapter: were both zero, no gradient would ever reach them.
"""

from dataclasses import dataclass

import numpy as np

from plait.adapters import AdapterState
from plait.aggregation.geometry import Geometry, Pair
from plait.aggregation.low_rank import Float64, LowRank
from plait.aggregation.rule import Resizing


def kept_rank(s: Float64, product: LowRank) -> int:
    """How many leading singular values, not increasing, of a product are more than rounding can explain."""
    rounding = s[:1] * max(product.b.shape[0], product.a.shape[1]) * np.finfo(np.float64).eps
    return int(np.count_nonzero(s > rounding))


# Kept factors of a worse condition would lose digits in float32; balanced ones are taken instead.
_LARGEST_CONDITION = 100.0


@dataclass(frozen=True, eq=False)
class Factored:
    """Factors (d_out, rank) and (rank, d_in) of the best approximation, and the norm of what is beyond the rank."""

    b: Float64
    a: Float64
    dropped: float


def balanced(product: LowRank, *, rank: int, scale: float, spare: Float64) -> Factored:
    """The best factors with evenly shared singular values, largest first; unused rows of A are those of `spare`."""
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
    """Factors of a pair's rank for its scale times B A: near the previous A if all clients have this rank."""
    if one_rank:
        return kept(product, scale=pair.scale, near=near)
    return balanced(product, rank=pair.rank, scale=pair.scale, spare=near)


def fitted(
    state: AdapterState, *, source: Geometry, target: Geometry, resizing: Resizing, fresh: AdapterState
) -> AdapterState:
    """An adapter converted to the rank of `target`, on the same modules, for a client or for export.

    Products keep their meaning where scales differ: with BEST the best of a lower rank, with SLICE that of the leading
    rows of A and columns of B. Directions that `state` does not use get their rows of A from `fresh`, in the layout of
    `target`. Pairs of equal rank and scale are returned unchanged.
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

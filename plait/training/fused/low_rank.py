"""Frozen projections with low-rank pairs beside them, of one adapter or of many at once (LoRA, arXiv 2106.09685).

y = x W' + scale (x A') B', with ' the transpose. The frozen weight gets no gradient, x A' is computed once for all
projections of one input, and nothing changes type on the way. With several adapters the rows of x belong to one after
another: the frozen products are shared, the thin ones are batched. Forward and backward are plain functions: callers
bring their own autograd.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

Tensor = torch.Tensor


@dataclass(frozen=True)
class Pair:
    """The low-rank pairs of one projection, one for each adapter.

    Attributes:
        A: (adapters, rank, d_in)
        B: (adapters, d_out, rank)
        scale: alpha / rank.
    """

    A: Tensor
    B: Tensor
    scale: float

    @classmethod
    def of(cls, A: Tensor, B: Tensor, scale: float) -> Pair:
        """A pair of one adapter, (rank, d_in) and (d_out, rank), or of several, stacked."""
        return cls(A, B, scale) if A.ndim == 3 else cls(A[None], B[None], scale)


@dataclass(frozen=True)
class Projection:
    """A frozen linear layer with or without pairs.

    Attributes:
        weight: (d_out, d_in)
        bias: (d_out,), or None.
        pair: what is beside it.
    """

    weight: Tensor
    bias: Tensor | None
    pair: Pair | None


@dataclass(frozen=True)
class PairGradient:
    """Gradients of a pair, in its shapes; None where none was asked for."""

    A: Tensor | None
    B: Tensor | None


def project(
    x: Tensor, projections: Sequence[Projection], rows: Sequence[int], *, residual: Tensor | None = None
) -> tuple[list[Tensor], Tensor | None]:
    """Several projections of one input.

    Args:
        x: (rows, d_in)
        projections: all with d_in inputs.
        rows: how many rows belong to each adapter.
        residual: (rows, d_out), added to the only projection.

    Returns:
        (rows, d_out) for each projection; scale * x A' of all pairs side by side, (rows, ranks), which
        `pair_gradients` wants back.
    """
    outs = [_frozen(x, projection, residual) for projection in projections]
    pairs = [projection.pair for projection in projections if projection.pair is not None]
    if not pairs:
        return outs, None
    inner = _times(x, _stacked(pairs).transpose(1, 2), rows)
    _scale_(inner, pairs)
    for out, projection, z in zip(outs, projections, _parts(inner, projections), strict=True):
        if projection.pair is not None:
            _add_times_(out, z, projection.pair.B.transpose(1, 2), rows)
    return outs, inner


def inner_gradient(grads: Sequence[Tensor], projections: Sequence[Projection], rows: Sequence[int]) -> Tensor | None:
    """Gradient in x A' of all pairs side by side, (rows, ranks); None without pairs.

    Args:
        grads: (rows, d_out) for each projection.
        projections: as in `project`.
        rows: as in `project`.
    """
    found = [(g, p.pair) for g, p in zip(grads, projections, strict=True) if p.pair is not None]
    if not found:
        return None
    thin = [_times(grad, pair.B, rows) for grad, pair in found]
    grad_inner = thin[0] if len(thin) == 1 else torch.cat(thin, dim=1)
    _scale_(grad_inner, [pair for _, pair in found])
    return grad_inner


def input_gradient(
    grads: Sequence[Tensor], grad_inner: Tensor | None, projections: Sequence[Projection], rows: Sequence[int]
) -> Tensor:
    """Gradient of `project` in x, (rows, d_in); `grad_inner` is what `inner_gradient` gave."""
    grad_x = grads[0] @ projections[0].weight
    for grad, projection in zip(grads[1:], projections[1:], strict=True):
        grad_x.addmm_(grad, projection.weight)
    if grad_inner is not None:
        pairs = [projection.pair for projection in projections if projection.pair is not None]
        _add_times_(grad_x, grad_inner, _stacked(pairs), rows)
    return grad_x


def pair_gradients(
    grads: Sequence[Tensor],
    grad_inner: Tensor | None,
    x: Tensor,
    inner: Tensor | None,
    projections: Sequence[Projection],
    rows: Sequence[int],
    *,
    wanted: Sequence[tuple[bool, bool]],
) -> list[PairGradient]:
    """Gradients of `project` in its pairs.

    Args:
        grads: (rows, d_out) for each projection.
        grad_inner: as `inner_gradient` gave it.
        x: the input.
        inner: as `project` gave it.
        projections: as in `project`.
        rows: as in `project`.
        wanted: for each projection, whether A and B are to get a gradient.
    """
    if inner is None or grad_inner is None:
        return [PairGradient(None, None)] * len(projections)
    in_A: list[Tensor | None] = [None] * len(projections)
    if any(want_A for want_A, _ in wanted):
        stacked = _cross(grad_inner, x, rows)  # (adapters, ranks, d_in)
        parts = stacked.split(_ranks(projections), dim=1)
        in_A = [part if want_A else None for part, (want_A, _) in zip(parts, wanted, strict=True)]
    in_B = [
        _cross(z, grad, rows).transpose(1, 2) if want_B else None
        for z, grad, (_, want_B) in zip(_parts(inner, projections), grads, wanted, strict=True)
    ]
    return [PairGradient(A, B) for A, B in zip(in_A, in_B, strict=True)]


def _frozen(x: Tensor, projection: Projection, residual: Tensor | None) -> Tensor:
    if residual is None:
        return functional.linear(x, projection.weight, projection.bias)
    if projection.bias is not None:
        residual = residual + projection.bias
    return torch.addmm(residual, x, projection.weight.t())


def _stacked(pairs: Sequence[Pair]) -> Tensor:
    return pairs[0].A if len(pairs) == 1 else torch.cat([pair.A for pair in pairs], dim=1)  # (adapters, ranks, d_in)


def _scale_(inner: Tensor, pairs: Sequence[Pair]) -> None:
    if len({pair.scale for pair in pairs}) == 1:
        inner.mul_(pairs[0].scale)
        return
    for part, pair in zip(inner.split([pair.A.shape[1] for pair in pairs], dim=1), pairs, strict=True):
        part.mul_(pair.scale)


def _parts(inner: Tensor, projections: Sequence[Projection]) -> list[Tensor]:
    """The columns of each projection; none for one without a pair."""
    return list(inner.split(_ranks(projections), dim=1))


def _ranks(projections: Sequence[Projection]) -> list[int]:
    return [0 if projection.pair is None else projection.pair.A.shape[1] for projection in projections]


def _equal(rows: Sequence[int]) -> bool:
    return len(set(rows)) == 1


def _by_adapter(x: Tensor, rows: Sequence[int]) -> Tensor:
    return x.reshape(len(rows), rows[0], x.shape[1])


def _times(x: Tensor, matrices: Tensor, rows: Sequence[int]) -> Tensor:
    """Each adapter's rows of x with its matrix. x: (rows, a), matrices: (adapters, a, b) -> (rows, b)."""
    if len(rows) == 1:
        return x @ matrices[0]
    if _equal(rows):
        return torch.bmm(_by_adapter(x, rows), matrices).flatten(0, 1)
    return torch.cat([part @ matrix for part, matrix in zip(x.split(list(rows)), matrices, strict=True)])


def _add_times_(out: Tensor, x: Tensor, matrices: Tensor, rows: Sequence[int]) -> None:
    if len(rows) == 1:
        out.addmm_(x, matrices[0])
    elif _equal(rows):
        _by_adapter(out, rows).baddbmm_(_by_adapter(x, rows), matrices)
    else:
        sizes = list(rows)
        for part, given, matrix in zip(out.split(sizes), x.split(sizes), matrices, strict=True):
            part.addmm_(given, matrix)


def _cross(left: Tensor, right: Tensor, rows: Sequence[int]) -> Tensor:
    """Left' right for each adapter's rows. left: (rows, a), right: (rows, b) -> (adapters, a, b)."""
    if len(rows) == 1:
        return (left.t() @ right)[None]
    if _equal(rows):
        return torch.bmm(_by_adapter(left, rows).transpose(1, 2), _by_adapter(right, rows))
    sizes = list(rows)
    return torch.stack([a.t() @ b for a, b in zip(left.split(sizes), right.split(sizes), strict=True)])

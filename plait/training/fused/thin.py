"""The thin products of the low-rank pairs of one input (LoRA, arXiv 2106.09685), forward and backward.

One adapter has all rows, or several have the numbers in `rows`, one after another. On a CPU all pairs of an input are
computed in one compiled pass (``low_rank.cpp``), with sums in float32.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch

from plait.training.fused.kernels import kernel

Tensor = torch.Tensor

_EIGHT = 8


@dataclass(frozen=True)
class LowRankPair:
    """The low-rank pairs of one projection: A (adapters, rank, d_in), B (adapters, d_out, rank), scale alpha / rank.

    A model's own has no first dimension.
    """

    A: Tensor
    B: Tensor
    scale: float

    @classmethod
    def of(cls, A: Tensor, B: Tensor, scale: float) -> Self:
        """A pair of one adapter, (rank, d_in) and (d_out, rank), or of several, stacked."""
        return cls(A, B, scale) if A.ndim == 3 else cls(A[None], B[None], scale)

    @property
    def rank(self) -> int:
        """Of each adapter."""
        return self.A.shape[1]


PairGradient = tuple[Tensor | None, Tensor | None]
"""Gradients of a pair's A and B, in their shapes; None if not requested."""


def add_products(outs: Sequence[Tensor], x: Tensor, pairs: Sequence[LowRankPair], rows: Sequence[int]) -> Tensor:
    """Add scale (x A') B' to each output in place; scale x A' of all pairs, for `gradients`."""
    if native := kernel("add_pairs", _ARGUMENTS, x, *outs, *_factors(pairs)):
        inner = _narrow(x, pairs)
        native(_address(x), *_described(pairs), *_row_counts(rows), _addresses(outs), _address(inner))
        return inner
    scale = pairs[0].scale if len({pair.scale for pair in pairs}) == 1 else None
    inner = _times(x, _stacked(pairs).transpose(1, 2), rows, scale)
    parts = inner.split([pair.rank for pair in pairs], dim=1)
    for out, pair, part in zip(outs, pairs, parts, strict=True):
        if scale is None:
            part.mul_(pair.scale)
        _add_times_(out, part, pair.B.transpose(1, 2), rows)
    return inner


def add_input_gradient(
    grad_x: Tensor | None, grads: Sequence[Tensor], pairs: Sequence[LowRankPair], rows: Sequence[int]
) -> Tensor:
    """Add the pairs' gradient of x to `grad_x` in place; that of x A', for `gradients`."""
    like = grads[0] if grad_x is None else grad_x
    if native := kernel("add_input_gradient", _ARGUMENTS, like, *grads, *_factors(pairs)):
        inner = _narrow(grads[0], pairs)
        native(_addresses(grads), *_described(pairs), *_row_counts(rows), _address(inner), _address(grad_x))
        return inner
    parts = [_times(grad, pair.B, rows, pair.scale) for grad, pair in zip(grads, pairs, strict=True)]
    inner = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
    if grad_x is not None:
        _add_times_(grad_x, inner, _stacked(pairs), rows)
    return inner


def gradients(
    x: Tensor,
    grads: Sequence[Tensor],
    inner: Tensor,
    grad_inner: Tensor,
    pairs: Sequence[LowRankPair],
    rows: Sequence[int],
    *,
    wanted: Sequence[tuple[bool, bool]],
) -> list[PairGradient]:
    """Gradients of the pairs, from `add_products` and `add_input_gradient`; `wanted`: A and B of each."""
    if native := kernel("pair_gradients", _ARGUMENTS, x, *grads, *_factors(pairs)):
        found = [
            (torch.empty_like(pair.A) if want_A else None, torch.empty_like(pair.B) if want_B else None)
            for pair, (want_A, want_B) in zip(pairs, wanted, strict=True)
        ]
        into = (_addresses([A for A, _ in found]), _addresses([B for _, B in found]))
        inputs = (_address(x), _addresses(grads), _address(inner), _address(grad_inner))
        native(*inputs, *_shapes(pairs), *_row_counts(rows), *into)
        return found
    ranks = [pair.rank for pair in pairs]
    in_A: list[Tensor | None] = [None] * len(pairs)
    if all(want_A for want_A, _ in wanted):
        # One product, whose parts follow one another in memory if there is one adapter.
        in_A[:] = _cross(grad_inner, x, rows).split(ranks, dim=1)
    else:
        for at, (part, (want_A, _)) in enumerate(zip(grad_inner.split(ranks, dim=1), wanted, strict=True)):
            in_A[at] = _cross(part, x, rows) if want_A else None
    in_B = [
        _cross(grad, part, rows) if want_B else None
        for part, grad, (_, want_B) in zip(inner.split(ranks, dim=1), grads, wanted, strict=True)
    ]
    return [*zip(in_A, in_B, strict=True)]


def _stacked(pairs: Sequence[LowRankPair]) -> Tensor:
    """A of all pairs, (adapters, ranks, d_in)."""
    return pairs[0].A if len(pairs) == 1 else torch.cat([pair.A for pair in pairs], dim=1)


_P, _I = ctypes.c_void_p, ctypes.c_int64
# Four inputs, the five of `_shapes`, the two of `_row_counts`, and two to write into.
_ARGUMENTS = (_P, _P, _P, _P, _P, _P, _I, _I, _I, _P, _I, _P, _P)


def _described(pairs: Sequence[LowRankPair]) -> tuple[object, ...]:
    scales = (ctypes.c_float * len(pairs))(*(pair.scale for pair in pairs))
    return _addresses([pair.A for pair in pairs]), _addresses([pair.B for pair in pairs]), scales, *_shapes(pairs)


def _shapes(pairs: Sequence[LowRankPair]) -> tuple[object, ...]:
    """Ranks, widths, how many pairs, depth, and how wide the narrow side is, padded."""
    count = len(pairs)
    ranks, widths = ((_I * count)(*sizes) for sizes in zip(*((p.rank, p.B.shape[1]) for p in pairs), strict=True))
    return ranks, widths, count, pairs[0].A.shape[2], _padded(pairs)


def _padded(pairs: Sequence[LowRankPair]) -> int:
    return -(-sum(pair.rank for pair in pairs) // _EIGHT) * _EIGHT


def _narrow(x: Tensor, pairs: Sequence[LowRankPair]) -> Tensor:
    return torch.empty(len(x), _padded(pairs), dtype=torch.float32)


def _row_counts(rows: Sequence[int]) -> tuple[object, ...]:
    return (_I * len(rows))(*rows), len(rows)


def _factors(pairs: Sequence[LowRankPair]) -> list[Tensor]:
    return [factor for pair in pairs for factor in (pair.A, pair.B)]


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _addresses(tensors: Sequence[Tensor | None]) -> object:
    return (_P * len(tensors))(*map(_address, tensors))


def _in_step(rows: Sequence[int]) -> bool:
    """Whether several adapters have the same number of rows."""
    return len(rows) > 1 and len(set(rows)) == 1


def _by_adapter(x: Tensor, rows: Sequence[int]) -> Tensor:
    return x.reshape(len(rows), rows[0], x.shape[1])


def _times(x: Tensor, matrices: Tensor, rows: Sequence[int], scale: float | None) -> Tensor:
    """Scale times each adapter's rows of x times its matrix. x: (rows, a), matrices: (adapters, a, b) -> (rows, b)."""
    out = x.new_empty(len(x), matrices.shape[2])
    # With beta 0 what is there does not count, not even if it is NaN; the scale is part of the product.
    _add_times_(out, x, matrices, rows, beta=0, alpha=1 if scale is None else scale)
    return out


def _add_times_(
    out: Tensor, x: Tensor, matrices: Tensor, rows: Sequence[int], *, beta: float = 1, alpha: float = 1
) -> None:
    if _in_step(rows):
        _by_adapter(out, rows).baddbmm_(_by_adapter(x, rows), matrices, beta=beta, alpha=alpha)
        return
    sizes = list(rows)
    for part, given, matrix in zip(out.split(sizes), x.split(sizes), matrices, strict=True):
        part.addmm_(given, matrix, beta=beta, alpha=alpha)


def _cross(left: Tensor, right: Tensor, rows: Sequence[int]) -> Tensor:
    """Left' right for each adapter's rows. left: (rows, a), right: (rows, b) -> (adapters, a, b)."""
    if len(rows) == 1:
        return (left.t() @ right)[None]
    if _in_step(rows):
        return torch.bmm(_by_adapter(left, rows).transpose(1, 2), _by_adapter(right, rows))
    sizes = list(rows)
    return torch.stack([a.t() @ b for a, b in zip(left.split(sizes), right.split(sizes), strict=True)])

"""Frozen projections with low-rank pairs, of one adapter or of many at once (LoRA, arXiv 2106.09685).

y = x W' + scale (x A') B', with ' the transpose. The frozen weight gets no gradient, and the thin products of all
projections of one input are computed together (`thin`). With several adapters, their rows of x follow one after
another, and the frozen products are shared. Forward and backward are plain functions: callers bring their own autograd.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from plait.training.fused.thin import Pair, PairGradient, add_input_gradient, add_products, gradients
from plait.training.qlora import Weight, unpacked

Tensor = torch.Tensor


@dataclass(frozen=True)
class Projection:
    """A frozen linear layer with or without pairs.

    Attributes:
        weight: (d_out, d_in)
        bias: (d_out,), or None.
        pair: its low-rank pair.
    """

    weight: Weight
    bias: Tensor | None
    pair: Pair | None


def project(
    x: Tensor, projections: Sequence[Projection], rows: Sequence[int], *, residual: Tensor | None = None
) -> tuple[list[Tensor], Tensor | None]:
    """Several projections of one input.

    Args:
        x: (rows, d_in)
        projections: all with d_in inputs.
        rows: number of rows of each adapter.
        residual: (rows, d_out), added to the only projection.

    Returns:
        (rows, d_out) for each projection; the input of `pair_gradients`, None without pairs.
    """
    outs = [_frozen(x, projection, residual) for projection in projections]
    pairs, beside = _with_pairs(projections, outs)
    return outs, add_products(beside, x, pairs, rows) if pairs else None


def input_gradient(
    grads: Sequence[Tensor], projections: Sequence[Projection], rows: Sequence[int], *, wanted: bool = True
) -> tuple[Tensor | None, Tensor | None]:
    """Gradient of `project` with respect to x.

    Args:
        grads: (rows, d_out) for each projection.
        projections: as in `project`.
        rows: as in `project`.
        wanted: whether the gradient is needed.

    Returns:
        (rows, d_in), or None if it is not wanted; the input of `pair_gradients`, None without pairs.
    """
    grad_x = None
    if wanted:
        grad_x = grads[0] @ unpacked(projections[0].weight)
        for grad, projection in zip(grads[1:], projections[1:], strict=True):
            grad_x.addmm_(grad, unpacked(projection.weight))
    pairs, beside = _with_pairs(projections, grads)
    return grad_x, add_input_gradient(grad_x, beside, pairs, rows) if pairs else None


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
    """Gradients of `project` with respect to its pairs.

    Args:
        grads: (rows, d_out) for each projection.
        grad_inner: from `input_gradient`.
        x: the input.
        inner: from `project`.
        projections: as in `project`.
        rows: as in `project`.
        wanted: for each projection, whether A and B need a gradient.
    """
    if inner is None or grad_inner is None:
        return [PairGradient(None, None)] * len(projections)
    pairs, beside = _with_pairs(projections, grads)
    asked = [each for each, projection in zip(wanted, projections, strict=True) if projection.pair is not None]
    found = iter(gradients(x, beside, inner, grad_inner, pairs, rows, wanted=asked))
    return [PairGradient(None, None) if projection.pair is None else next(found) for projection in projections]


def _with_pairs(projections: Sequence[Projection], tensors: Sequence[Tensor]) -> tuple[list[Pair], list[Tensor]]:
    """The existing pairs, and the tensors of their projections."""
    found = [(p.pair, tensor) for p, tensor in zip(projections, tensors, strict=True) if p.pair is not None]
    return [pair for pair, _ in found], [tensor for _, tensor in found]


def _frozen(x: Tensor, projection: Projection, residual: Tensor | None) -> Tensor:
    weight = unpacked(projection.weight)
    if residual is None:
        return functional.linear(x, weight, projection.bias)
    if projection.bias is not None:
        residual = residual + projection.bias
    return torch.addmm(residual, x, weight.t())

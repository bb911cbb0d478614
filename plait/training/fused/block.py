"""One block of a Llama-like decoder as one step of autograd: norm, attention, norm, gated MLP, with low-rank pairs.

y = x + o(attention(q(n), k(n), v(n))), n = norm(x); out = y + down(silu(gate(m)) * up(m)), m = norm(y).
Values that are cheap to compute twice (norms, the gated product) are not kept for the backward pass; a block that is
recomputed keeps only its input (gradient checkpointing, arXiv 1604.06174), with the same bits as result. Frozen weights
get no gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from plait.training.fused.attention import Angles, Graphs, Heads, Place, attend, attend_gradient
from plait.training.fused.kernels import rms_norm, rms_norm_again, swiglu, swiglu_gradient
from plait.training.fused.low_rank import Projection, input_gradient, pair_gradients, project
from plait.training.fused.peft_layer import PlainLayer
from plait.training.fused.thin import Pair, PairGradient

Tensor = torch.Tensor


@dataclass(frozen=True)
class Block:
    """One block.

    Attributes:
        linears: q, k, v, o, gate, up, down, with the pairs of the model's own adapter.
        norms: weights of the two norms, (width,) each.
        heads: shape of the attention.
    """

    linears: tuple[PlainLayer, ...]
    norms: tuple[Tensor, Tensor]
    eps: tuple[float, float]
    heads: Heads


@dataclass(frozen=True)
class Rows:
    """Which rows of a batch belong together.

    Attributes:
        sequences: positions of the sequences.
        by_adapter: number of rows of each adapter, in order.
        angles: by position, or by row where the sequences are `Ragged`.
    """

    sequences: tuple[Place, ...]
    by_adapter: tuple[int, ...]
    angles: Angles


def run_block(
    x: Tensor,
    block: Block,
    rows: Rows,
    pairs: Sequence[tuple[Tensor, Tensor] | None],
    *,
    recomputed: bool = False,
) -> Tensor:
    """Compute one block's output.

    Args:
        x: (rows, width)
        block: whose frozen part computes.
        rows: which rows belong together.
        pairs: A and B of each linear layer of the block, as for `Pair.of`, or None.
        recomputed: whether the backward pass computes the values inside the block again instead of keeping them.
    """
    flat = [tensor for pair in pairs for tensor in (pair or (None, None))]
    return cast("Tensor", _RunBlock.apply(x, block, rows, recomputed, *flat))


class _RunBlock(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        block: Block,
        rows: Rows,
        recomputed: bool,
        *pairs: Tensor | None,
    ) -> Tensor:
        projections = _projections(block, pairs)
        inside = _inside(x, block, rows, projections)
        activated = swiglu(inside.gate, inside.up)
        (out,), down_inner = project(activated, projections[6:], rows.by_adapter, residual=inside.y)
        if any(ctx.needs_input_grad):
            ctx.block, ctx.rows, ctx.recomputed = block, rows, recomputed
            kept = () if recomputed else inside.tensors()
            # Freed by the backward pass, as saved tensors are; no parameter is part of it.
            ctx.graphs = () if recomputed else inside.graphs
            ctx.save_for_backward(x, down_inner, *pairs, *kept)
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, down_inner, *rest = ctx.saved_tensors
        pairs, kept = rest[:14], rest[14:]
        block, rows = cast("Block", ctx.block), cast("Rows", ctx.rows)
        by = rows.by_adapter
        projections = _projections(block, pairs)
        q, k, v, o, gate, up, down = projections
        inside = _inside(x, block, rows, projections) if ctx.recomputed else _Inside(ctx.graphs, *kept)
        ctx.graphs = ()
        mixed, y = inside.mixed, inside.y
        needed = ctx.needs_input_grad[4:]
        wanted = [(needed[at], needed[at + 1]) for at in range(0, 14, 2)]

        grads = (grad_outputs[0].contiguous(),)
        activated_grad, thin = input_gradient(grads, (down,), by)
        activated, gate_grad, up_grad = swiglu_gradient(cast("Tensor", activated_grad), inside.gate, inside.up)
        in_down = pair_gradients(grads, thin, activated, down_inner, (down,), by, wanted=wanted[6:])
        del activated, activated_grad  # the largest values; what follows needs their room

        gated = (gate_grad, up_grad)
        normed_grad, thin = input_gradient(gated, (gate, up), by)
        normed, back = rms_norm_again(y, block.norms[1], block.eps[1])
        in_gated = pair_gradients(gated, thin, normed, inside.gated_inner, (gate, up), by, wanted=wanted[4:6])
        del gated, gate_grad, up_grad
        y_grad = (back(cast("Tensor", normed_grad), grads[0]),)

        mixed_grad, thin = input_gradient(y_grad, (o,), by)
        in_o = pair_gradients(y_grad, thin, mixed, inside.o_inner, (o,), by, wanted=wanted[3:4])
        given = cast("Tensor", mixed_grad)
        qkv_grad = attend_gradient(given, inside.attended, heads=block.heads, where=rows.sequences, angles=rows.angles)

        normed_grad, thin = input_gradient(qkv_grad, (q, k, v), by, wanted=ctx.needs_input_grad[0])
        normed, back = rms_norm_again(x, block.norms[0], block.eps[0])
        in_qkv = pair_gradients(qkv_grad, thin, normed, inside.qkv_inner, (q, k, v), by, wanted=wanted[:3])
        x_grad = None
        if normed_grad is not None:
            x_grad = back(normed_grad, y_grad[0])
        return x_grad, None, None, None, *_shaped((*in_qkv, *in_o, *in_gated, *in_down), pairs)


@dataclass(frozen=True)
class _Inside:
    """What the backward pass needs of the values between a block's input and its output.

    Attributes:
        graphs: of the attention, where torch computed it.
        q, k, v: projections of the first norm's result; not kept where there are graphs.
        mixed: result of the attention.
        y: input of the second norm.
        gate, up: projections of its result.
        qkv_inner, o_inner, gated_inner: inputs of `pair_gradients`.
    """

    graphs: Graphs
    q: Tensor | None
    k: Tensor | None
    v: Tensor | None
    mixed: Tensor
    y: Tensor
    gate: Tensor
    up: Tensor
    qkv_inner: Tensor | None
    o_inner: Tensor | None
    gated_inner: Tensor | None

    @property
    def attended(self) -> tuple[Tensor, Tensor, Tensor] | Graphs:
        """The input of `attend_gradient`."""
        return self.graphs or cast("tuple[Tensor, Tensor, Tensor]", (self.q, self.k, self.v))

    def tensors(self) -> tuple[Tensor | None, ...]:
        return (
            self.q, self.k, self.v, self.mixed, self.y, self.gate, self.up,
            self.qkv_inner, self.o_inner, self.gated_inner,
        )  # fmt: skip


def _inside(x: Tensor, block: Block, rows: Rows, projections: Sequence[Projection]) -> _Inside:
    """All but the last projection."""
    q, k, v, o, gate, up, _ = projections
    by = rows.by_adapter
    normed = rms_norm(x, block.norms[0], block.eps[0])
    qkv, qkv_inner = project(normed, (q, k, v), by)
    mixed, graphs = attend(qkv[0], qkv[1], qkv[2], heads=block.heads, where=rows.sequences, angles=rows.angles)
    kept = (None, None, None) if graphs else (qkv[0], qkv[1], qkv[2])
    (y,), o_inner = project(mixed, (o,), by, residual=x)
    normed = rms_norm(y, block.norms[1], block.eps[1])
    (gate_out, up_out), gated_inner = project(normed, (gate, up), by)
    return _Inside(graphs, *kept, mixed, y, gate_out, up_out, qkv_inner, o_inner, gated_inner)


def _projections(block: Block, pairs: Sequence[Tensor | None]) -> list[Projection]:
    found: list[Projection] = []
    for layer, A, B in zip(block.linears, pairs[0::2], pairs[1::2], strict=True):
        pair = None if A is None or B is None else Pair.of(A, B, layer.scale)
        found.append(Projection(layer.weight, layer.bias, pair))
    return found


def _shaped(gradients: Sequence[PairGradient], pairs: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Gradients in the shapes of their tensors: without the adapter dimension if it was added."""
    flat = [gradient for pair in gradients for gradient in (pair.A, pair.B)]
    return [
        None if gradient is None or of is None else gradient.reshape(of.shape)
        for gradient, of in zip(flat, pairs, strict=True)
    ]

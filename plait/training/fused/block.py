"""One block of a Llama-like decoder as one step of autograd: norm, attention, norm, gated MLP, with low-rank pairs.

y = x + o(attention(q(n), k(n), v(n))), n = norm(x); out = y + down(silu(gate(m)) * up(m)), m = norm(y). Norms and
the gated product are computed twice; a recomputed block keeps only its input (arXiv 1604.06174), with the same bits.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

import torch
from peft.tuners.lora import Linear as PeftLoraLinear
from peft.tuners.psoft.layer import Linear as PeftPsoftLinear
from peft.tuners.psoft.layer import OrthLayer
from torch import nn
from torch.nn import functional

from plait.training.fused.attention import Angles, Graphs, Heads, Place, attend, attend_gradient
from plait.training.fused.kernels import rms_norm, rms_norm_again, swiglu, swiglu_gradient
from plait.training.fused.thin import LowRankPair, PairGradient, add_input_gradient, add_products, gradients

if TYPE_CHECKING:
    from plait.training.qlora import Packed

Tensor = torch.Tensor
Weight: TypeAlias = "Tensor | Packed"


@dataclass(frozen=True)
class Square:
    """A square matrix R (rank, rank) between fixed A and B: the pair A and B (R - 1) (LoRA-XS, arXiv 2405.17604)."""

    A: Tensor
    B: Tensor
    R: nn.Parameter
    scale: float

    def pair(self, R: Tensor) -> tuple[Tensor, Tensor]:
        """The low-rank pair with another R, or with several, stacked: then both sides are."""
        moved = self.B @ (R - torch.eye(R.shape[-1], dtype=R.dtype, device=R.device))
        return (self.A if R.ndim == 2 else self.A.expand(len(R), *self.A.shape).contiguous()), moved


@dataclass(frozen=True)
class Projection:
    """A frozen linear layer, (d_out, d_in), and its active pair, if any: the model's own, or one to compute with."""

    weight: Weight
    bias: Tensor | None
    pair: LowRankPair | Square | None = None


def plain_layer(module: nn.Module) -> Projection | None:
    """The layer's numbers; None for what computes more: DoRA, dropout, merged or several adapters, hooks."""
    if type(module) is not PeftPsoftLinear and not _is_lora(module):
        return _frozen_layer(module)
    found = cast("PeftLoraLinear | PeftPsoftLinear", module)
    base = None if _hooked(found) or found.merged else _frozen_layer(found.base_layer)
    if base is None:
        return None
    is_square = isinstance(found, PeftPsoftLinear)
    there, dropouts = (found.psoft_R, found.psoft_dropout) if is_square else (found.lora_A, found.lora_dropout)
    active = [name for name in found.active_adapters if name in there]
    if found.disable_adapters or not active:
        return base
    if len(active) > 1 or not isinstance(dropouts[active[0]], nn.Identity):
        return None
    pair = _square(found, active[0]) if is_square else _pair(found, active[0])
    if pair is None or any(each.dtype != base.weight.dtype for each in vars(pair).values() if isinstance(each, Tensor)):
        return None
    return Projection(base.weight, base.bias, pair)


def _pair(module: PeftLoraLinear, name: str) -> LowRankPair | None:
    if module.lora_variant or any(module.lora_bias.values()):
        return None
    A, B = (cast("nn.Parameter", side[name].weight) for side in (module.lora_A, module.lora_B))
    return LowRankPair(A, B, float(module.scaling[name]))


def _square(module: PeftPsoftLinear, name: str) -> Square | None:
    turn = cast("OrthLayer", module.psoft_R[name])
    if module.fan_in_fan_out or turn.orth or turn.vector_a is not None or turn.vector_b is not None or _hooked(turn):
        return None
    A, B = (cast("Tensor", side[name]) for side in (module._psoft_A_cache, module._psoft_B_cache))  # pyright: ignore[reportPrivateUsage]
    return Square(A, B, turn.weight, float(module.scaling[name]))


def _is_lora(module: nn.Module) -> bool:
    """Whether it is PEFT's layer over a linear one, whole or in four bits."""
    four_bits = sys.modules.get("peft.tuners.lora.bnb")
    return type(module) is PeftLoraLinear or type(module) is getattr(four_bits, "Linear4bit", None)


def _frozen_layer(module: nn.Module) -> Projection | None:
    if _hooked(module):
        return None
    weight: Weight | None = module.weight if type(module) is nn.Linear else _packed(module)
    # torch's own annotation omits that there may be no bias.
    bias = cast("nn.Parameter | None", module.bias)
    if weight is None or any(isinstance(each, nn.Parameter) and each.requires_grad for each in (weight, bias)):
        return None
    return Projection(weight, bias)


def _packed(module: nn.Module) -> "Packed | None":
    if "bitsandbytes.nn" not in sys.modules:
        return None
    from plait.training.qlora import packed_weight

    return packed_weight(module)


def _unpacked(weight: Weight) -> Tensor:
    return weight if isinstance(weight, Tensor) else weight.unpacked()


def _hooked(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)  # pyright: ignore[reportPrivateUsage]
    return any(hooks)


def project(
    x: Tensor, projections: Sequence[Projection], rows: Sequence[int], *, residual: Tensor | None = None
) -> tuple[list[Tensor], Tensor | None]:
    """Several projections of x (rows, d_in), plus `residual`; and the input of `pair_gradients`."""
    outs = [_frozen(x, projection, residual) for projection in projections]
    pairs, beside = _with_pairs(projections, outs)
    return outs, add_products(beside, x, pairs, rows) if pairs else None


def input_gradient(
    grads: Sequence[Tensor], projections: Sequence[Projection], rows: Sequence[int], *, wanted: bool = True
) -> tuple[Tensor | None, Tensor | None]:
    """Gradient of `project` in x, if `wanted`; and the input of `pair_gradients`."""
    grad_x = None
    if wanted:
        grad_x = grads[0] @ _unpacked(projections[0].weight)
        for grad, projection in zip(grads[1:], projections[1:], strict=True):
            grad_x.addmm_(grad, _unpacked(projection.weight))
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
    """Gradients of `project` in its pairs; `wanted`: of each, whether A and B need one."""
    if inner is None or grad_inner is None:
        return [(None, None)] * len(projections)
    pairs, beside = _with_pairs(projections, grads)
    asked = [each for each, projection in zip(wanted, projections, strict=True) if projection.pair is not None]
    found = iter(gradients(x, beside, inner, grad_inner, pairs, rows, wanted=asked))
    return [(None, None) if projection.pair is None else next(found) for projection in projections]


def _with_pairs(projections: Sequence[Projection], tensors: Sequence[Tensor]) -> tuple[list[LowRankPair], list[Tensor]]:
    every = zip(projections, tensors, strict=True)
    found = [(p.pair, tensor) for p, tensor in every if isinstance(p.pair, LowRankPair)]
    return [pair for pair, _ in found], [tensor for _, tensor in found]


def _frozen(x: Tensor, projection: Projection, residual: Tensor | None) -> Tensor:
    weight = _unpacked(projection.weight)
    if residual is None:
        return functional.linear(x, weight, projection.bias)
    if projection.bias is not None:
        residual = residual + projection.bias
    return torch.addmm(residual, x, weight.t())


@dataclass(frozen=True)
class Block:
    """One block: q, k, v, o, gate, up, down with the pairs of the model's own adapter, and two norms, (width,) each."""

    linears: tuple[Projection, ...]
    norms: tuple[Tensor, Tensor]
    eps: tuple[float, float]
    heads: Heads


@dataclass(frozen=True)
class Rows:
    """Which rows of a batch belong together: where sequences lie, and how many rows each adapter has."""

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
    """A block's output for x, (rows, width), with A and B of each layer; `recomputed`: checkpointed."""
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
            kept = () if recomputed else inside[1:]
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
        attended = inside.graphs or cast("tuple[Tensor, Tensor, Tensor]", inside[1:4])
        qkv_grad = attend_gradient(given, attended, heads=block.heads, where=rows.sequences, angles=rows.angles)

        normed_grad, thin = input_gradient(qkv_grad, (q, k, v), by, wanted=ctx.needs_input_grad[0])
        normed, back = rms_norm_again(x, block.norms[0], block.eps[0])
        in_qkv = pair_gradients(qkv_grad, thin, normed, inside.qkv_inner, (q, k, v), by, wanted=wanted[:3])
        x_grad = None
        if normed_grad is not None:
            x_grad = back(normed_grad, y_grad[0])
        return x_grad, None, None, None, *_shaped((*in_qkv, *in_o, *in_gated, *in_down), pairs)


class _Inside(NamedTuple):
    """What the backward pass needs; q, k and v only where attention has no graphs, `y` is the second norm's input."""

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
        pair = None if A is None or B is None or layer.pair is None else LowRankPair.of(A, B, layer.pair.scale)
        found.append(Projection(layer.weight, layer.bias, pair))
    return found


def _shaped(gradients: Sequence[PairGradient], pairs: Sequence[Tensor | None]) -> list[Tensor | None]:
    flat = [gradient for pair in gradients for gradient in pair]
    return [
        None if gradient is None or of is None else gradient.reshape(of.shape)
        for gradient, of in zip(flat, pairs, strict=True)
    ]

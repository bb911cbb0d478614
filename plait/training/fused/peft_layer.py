"""Recognise PEFT's plain low-rank layers, and LoRA-XS's, which the fused implementation can compute."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import cast

import torch
from peft.tuners.lora import Linear as PeftLoraLinear
from peft.tuners.psoft.layer import Linear as PeftPsoftLinear
from peft.tuners.psoft.layer import OrthLayer
from torch import nn

from plait.training.qlora import Weight, packed_weight


@dataclass(frozen=True)
class Square:
    """A square matrix R between fixed factors: the low-rank pair A and B (R - 1) (LoRA-XS, arXiv 2405.17604).

    Attributes:
        A: (rank, d_in), fixed.
        B: (d_out, rank), fixed.
        R: (rank, rank), trained.
    """

    A: torch.Tensor
    B: torch.Tensor
    R: nn.Parameter

    def pair(self, R: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The low-rank pair with another R, or with several, stacked: then both sides are."""
        moved = self.B @ (R - torch.eye(R.shape[-1], dtype=R.dtype, device=R.device))
        return (self.A if R.ndim == 2 else self.A.expand(len(R), *self.A.shape).contiguous()), moved


@dataclass(frozen=True)
class PlainLayer:
    """A frozen linear layer, with or without one active low-rank pair.

    Attributes:
        weight: (d_out, d_in), of the frozen layer.
        bias: (d_out,), of the frozen layer, or None.
        pair: lora_A (rank, d_in) and lora_B (d_out, rank), or a square matrix between fixed factors, or None.
        scale: alpha / rank (or that of PEFT's rsLoRA).
    """

    weight: Weight
    bias: nn.Parameter | None
    pair: tuple[nn.Parameter, nn.Parameter] | Square | None
    scale: float


def plain_layer(module: nn.Module) -> PlainLayer | None:
    """The layer's numbers; None for anything that computes more than y = x W' + b + scale (x A') B', B maybe B (R - 1).

    That excludes DoRA and other variants, separate biases and biases that train, several adapters at once, merged ones,
    dropout, bitsandbytes' eight bits, layers with hooks, and an adapter in another type than its base.
    """
    if type(module) is PeftPsoftLinear:
        return _square(module)
    if not _is_lora(module):
        return _frozen(module)
    found = cast("PeftLoraLinear", module)
    base = None if _hooked(found) or found.merged else _frozen(found.base_layer)
    if base is None:
        return None
    active = [name for name in found.active_adapters if name in found.lora_A]
    if found.disable_adapters or not active:
        return base
    if len(active) > 1 or found.lora_variant or any(found.lora_bias.values()):
        return None
    name = active[0]
    dropout = found.lora_dropout[name]
    A, B = (cast("nn.Parameter", side[name].weight) for side in (found.lora_A, found.lora_B))
    if not isinstance(dropout, nn.Identity) or not A.dtype == B.dtype == base.weight.dtype:
        return None
    return PlainLayer(base.weight, base.bias, (A, B), float(found.scaling[name]))


def _square(module: PeftPsoftLinear) -> PlainLayer | None:
    base = None if _hooked(module) or module.merged or module.fan_in_fan_out else _frozen(module.base_layer)
    if base is None:
        return None
    active = [name for name in module.active_adapters if name in module.psoft_R]
    if module.disable_adapters or not active:
        return base
    name = active[0]
    turn = cast("OrthLayer", module.psoft_R[name])
    A, B = (cast("torch.Tensor", side[name]) for side in (module._psoft_A_cache, module._psoft_B_cache))  # pyright: ignore[reportPrivateUsage]
    if len(active) > 1 or turn.orth or turn.vector_a is not None or turn.vector_b is not None or _hooked(turn):
        return None
    if not isinstance(module.psoft_dropout[name], nn.Identity) or any(
        tensor.dtype != base.weight.dtype for tensor in (A, B, turn.weight)
    ):
        return None
    return PlainLayer(base.weight, base.bias, Square(A, B, turn.weight), float(module.scaling[name]))


def _is_lora(module: nn.Module) -> bool:
    """Whether it is PEFT's layer over a linear one, whole or in four bits."""
    four_bits = sys.modules.get("peft.tuners.lora.bnb")
    return type(module) is PeftLoraLinear or type(module) is getattr(four_bits, "Linear4bit", None)


def _frozen(module: nn.Module) -> PlainLayer | None:
    if _hooked(module):
        return None
    weight = module.weight if type(module) is nn.Linear else packed_weight(module)
    # torch's own annotation omits that there may be no bias.
    bias = cast("nn.Parameter | None", module.bias)
    if weight is None or any(isinstance(each, nn.Parameter) and each.requires_grad for each in (weight, bias)):
        return None
    return PlainLayer(weight, bias, None, 1.0)


def _hooked(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)  # pyright: ignore[reportPrivateUsage]
    return any(hooks)

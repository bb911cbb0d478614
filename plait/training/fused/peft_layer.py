"""Recognise PEFT's plain low-rank layers, which the fused implementation can compute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from peft.tuners.lora import Linear as PeftLoraLinear
from torch import nn


@dataclass(frozen=True)
class PlainLayer:
    """A frozen linear layer, with or without one active low-rank pair.

    Attributes:
        pair: lora_A (rank, d_in) and lora_B (d_out, rank), or None.
        scale: alpha / rank (or that of PEFT's rsLoRA).
    """

    base: nn.Linear
    pair: tuple[nn.Parameter, nn.Parameter] | None
    scale: float

    @property
    def bias(self) -> nn.Parameter | None:
        """Of the frozen layer; torch's own annotation omits that there may be none."""
        return cast("nn.Parameter | None", self.base.bias)


def plain_layer(module: nn.Module) -> PlainLayer | None:
    """The layer's numbers; None for anything that computes more than y = x W' + b + scale (x A') B'.

    That excludes DoRA and other variants, separate biases, several adapters at once, merged ones, dropout, quantised
    weights, layers with hooks, and an adapter in another type than its base.
    """
    if type(module) is nn.Linear:
        return None if _hooked(module) or module.weight.requires_grad else PlainLayer(module, None, 1.0)
    if type(module) is not PeftLoraLinear or _hooked(module) or module.merged:
        return None
    base = module.base_layer
    if type(base) is not nn.Linear or _hooked(base):
        return None
    active = [name for name in module.active_adapters if name in module.lora_A]
    if module.disable_adapters or not active:
        return PlainLayer(base, None, 1.0)
    if len(active) > 1 or module.lora_variant or any(module.lora_bias.values()):
        return None
    name = active[0]
    dropout = module.lora_dropout[name]
    A, B = (cast("nn.Parameter", side[name].weight) for side in (module.lora_A, module.lora_B))
    if not isinstance(dropout, nn.Identity) or not A.dtype == B.dtype == base.weight.dtype:
        return None
    return PlainLayer(base, (A, B), float(module.scaling[name]))


def _hooked(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)  # pyright: ignore[reportPrivateUsage]
    return any(hooks)

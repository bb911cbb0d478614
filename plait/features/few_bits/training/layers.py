"""Frozen layers of few bits, as modules that PEFT takes for torch's.

Only the values of one layer exist at a time, in the forward as in the backward pass. Knows no model.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional

from plait.features.few_bits.training.formats import NormalFloat, Rows
from plait.training.fused.packed import WITHOUT_VALUES

Tensor = torch.Tensor
FewBits = NormalFloat | Rows


def _shown(held: FewBits) -> Tensor:
    if WITHOUT_VALUES.get():
        return torch.zeros((), dtype=held.dtype, device=held.tensors[0].device).expand(held.shape)
    return held.unpacked()


class FewBitsLinear(nn.Linear):
    """A frozen linear layer of few bits.

    Args:
        bias: (d_out,), or None.
    """

    is_of_few_bits = True

    def __init__(self, held: FewBits, bias: nn.Parameter | None) -> None:
        nn.Module.__init__(self)  # the weight of nn.Linear would be a second copy
        self.out_features, self.in_features = held.shape
        self.held = held
        self.bias = bias

    @property
    def weight(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """(d_out, d_in), computed at every access."""
        return _shown(self.held)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        """As `nn.Linear`'s."""
        out = cast("Tensor", _Linear.apply(input, self.held))
        return out if self.bias is None else out + self.bias


class FewBitsEmbedding(nn.Module):
    """A frozen embedding of few bits.

    Args:
        padding_idx: as of the layer that it replaces.
    """

    is_of_few_bits = True

    def __init__(self, held: Rows, padding_idx: int | None) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = held.shape
        self.padding_idx = padding_idx
        self.held = held

    @property
    def weight(self) -> Tensor:
        """(words, width), computed at every access."""
        return _shown(self.held)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        """As `nn.Embedding`'s."""
        return self.held.chosen(input.flatten()).view(*input.shape, self.embedding_dim)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, held: FewBits) -> Tensor:
        ctx.held = held
        return functional.linear(x, held.unpacked())

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return grad_outputs[0] @ cast("FewBits", ctx.held).unpacked(), None

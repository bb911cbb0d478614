"""A frozen weight that is held in few bits, by bitsandbytes or by plait itself, and its values whenever they are used.

Only the values of one layer exist at a time, in the forward as in the backward pass. Knows no model.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import nn
from torch.nn import functional

from plait.training.fused.few_bits import NormalFloat, Rows

Tensor = torch.Tensor


class _QuantState(Protocol):
    @property
    def shape(self) -> torch.Size: ...
    @property
    def dtype(self) -> torch.dtype: ...


@dataclass(frozen=True)
class Packed:
    """The weight of a linear layer, two values a byte.

    Attributes:
        values: (d_out * d_in / 2, 1) uint8.
        state: bitsandbytes' scales and shape.
        dtype: in which the layer computes.
    """

    values: Tensor
    state: _QuantState
    dtype: torch.dtype

    @property
    def shape(self) -> torch.Size:
        """Of the layer, (d_out, d_in)."""
        return self.state.shape

    def unpacked(self) -> Tensor:
        """(d_out, d_in) in `dtype`."""
        functional = importlib.import_module("bitsandbytes.functional")
        return cast("Tensor", functional.dequantize_4bit(self.values, self.state)).to(self.dtype)


FewBits = NormalFloat | Rows
Weight = Tensor | Packed | FewBits
Table = Tensor | Rows
"""A matrix whose rows are used one by one: an embedding, or a head."""


def unpacked(weight: Weight) -> Tensor:
    """(d_out, d_in): the weight itself unless it is packed."""
    return weight if isinstance(weight, Tensor) else weight.unpacked()


def packed_weight(module: nn.Module) -> Packed | FewBits | None:
    """The weight of a linear layer of few bits; None for any other module, or one not yet packed."""
    if type(module) is FewBitsLinear:
        return module.held
    library = sys.modules.get("bitsandbytes.nn")
    if library is None or type(module) is not library.Linear4bit:
        return None
    weight = cast("Tensor", module.weight)
    state = cast("_QuantState | None", getattr(weight, "quant_state", None))
    computes = cast("torch.dtype | None", module.compute_dtype)
    if state is None or computes is None:
        return None
    return Packed(weight.data, state, computes)


def rows_between(table: Table, first: int, last: int) -> Tensor:
    """Neighbouring rows of a table."""
    return table[first:last] if isinstance(table, Tensor) else table.between(first, last).unpacked()


def rows_at(table: Table, numbers: Tensor) -> Tensor:
    """The rows of these numbers, (chosen,) int64."""
    return table.index_select(0, numbers) if isinstance(table, Tensor) else table.chosen(numbers)


def products_with(x: Tensor, table: Table, *, most: int = 1 << 14) -> Tensor:
    """The product of x and the transpose of a table, whose rows are unpacked `most` at a time."""
    if isinstance(table, Tensor):
        return x @ table.t()
    firsts = range(0, table.shape[0], most)
    return torch.cat([x @ rows_between(table, first, first + most).t() for first in firsts], dim=-1)


_WITHOUT_VALUES: ContextVar[bool] = ContextVar("without values", default=False)


@contextmanager
def without_values() -> Generator[None]:
    """Meanwhile weights of few bits show shape and type, and zeros: PEFT asks for each some twenty times."""
    before = _WITHOUT_VALUES.set(True)
    try:
        yield
    finally:
        _WITHOUT_VALUES.reset(before)


def _shown(held: FewBits) -> Tensor:
    if _WITHOUT_VALUES.get():
        return torch.zeros((), dtype=held.dtype, device=held.tensors[0].device).expand(held.shape)
    return held.unpacked()


class FewBitsLinear(nn.Linear):
    """A frozen linear layer of few bits.

    Args:
        held: its weight.
        bias: (d_out,), or None.
    """

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
        held: its rows.
        padding_idx: as of the layer that it replaces.
    """

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

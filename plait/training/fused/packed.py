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
from typing import Protocol, Self, TypeAlias, TypeGuard, cast

import torch
from torch import nn

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


class FewBits(Protocol):
    """A weight that plait holds itself."""

    @property
    def shape(self) -> torch.Size:
        """(d_out, d_in)."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of its values."""
        ...

    def unpacked(self) -> Tensor:
        """All values."""
        ...


class Rows(FewBits, Protocol):
    """One whose rows can be used one by one."""

    def between(self, first: int, last: int) -> Self:
        """Neighbouring rows."""
        ...

    def chosen(self, rows: Tensor | None) -> Tensor:
        """The values of rows of these numbers, (chosen,) int64; of all for None."""
        ...


Weight: TypeAlias = "Tensor | Packed | FewBits"
Table: TypeAlias = "Tensor | Rows"
"""A matrix whose rows are used one by one: an embedding, or a head."""


def is_table(weight: Weight) -> TypeGuard[Table]:
    """Whether a weight's rows can be used one by one."""
    return isinstance(weight, Tensor) or hasattr(weight, "chosen")


def held_in_few_bits(module: nn.Module) -> FewBits | None:
    """The weight of a layer with `is_of_few_bits`; None for any other module."""
    return cast("FewBits", module.held) if getattr(type(module), "is_of_few_bits", False) else None


def unpacked(weight: Weight) -> Tensor:
    """(d_out, d_in): the weight itself unless it is packed."""
    return weight if isinstance(weight, Tensor) else weight.unpacked()


def packed_weight(module: nn.Module) -> Packed | FewBits | None:
    """The weight of a linear layer of few bits; None for any other module, or one not yet packed."""
    if held := held_in_few_bits(module):
        return held
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


WITHOUT_VALUES: ContextVar[bool] = ContextVar("without values", default=False)
"""Whether weights of few bits show zeros."""


@contextmanager
def without_values() -> Generator[None]:
    """Meanwhile weights of few bits show shape and type, and zeros: PEFT asks for each some twenty times."""
    before = WITHOUT_VALUES.set(True)
    try:
        yield
    finally:
        WITHOUT_VALUES.reset(before)

"""Weights of linear layers in four bits, as bitsandbytes keeps them; the values of one exist only while it is used."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import nn


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

    values: torch.Tensor
    state: _QuantState
    dtype: torch.dtype

    @property
    def shape(self) -> torch.Size:
        """Of the layer, (d_out, d_in)."""
        return self.state.shape

    def unpacked(self) -> torch.Tensor:
        """(d_out, d_in) in `dtype`."""
        functional = importlib.import_module("bitsandbytes.functional")
        return cast("torch.Tensor", functional.dequantize_4bit(self.values, self.state)).to(self.dtype)


def packed_weight(module: nn.Module) -> Packed | None:
    """The weight of a linear layer in four bits; None for any other module, or one not yet packed."""
    if type(module) is not sys.modules["bitsandbytes.nn"].Linear4bit:
        return None
    weight = cast("torch.Tensor", module.weight)
    state = cast("_QuantState | None", getattr(weight, "quant_state", None))
    computes = cast("torch.dtype | None", module.compute_dtype)
    if state is None or computes is None:
        return None
    return Packed(weight.data, state, computes)

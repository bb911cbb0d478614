"""An adapter for serving: its factors, or its bottlenecks, by layer of the base, on the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from plait.adapters import AdapterSpec, AdapterState, TensorSlot
from plait.adapters.bottleneck import activation_of
from plait.adapters.bottleneck_layout import bottlenecks_of
from plait.adapters.module_names import in_base
from plait.aggregation.geometry import geometry_of
from plait.training.bottleneck import activated
from plait.training.device import Compute


@dataclass(frozen=True, eq=False)
class Factors:
    """The term added to one linear layer: scale * B A.

    Attributes:
        A: (rank, d_in)
        B: (d_out, rank)
    """

    A: torch.Tensor
    B: torch.Tensor
    scale: float


@dataclass(frozen=True, eq=False)
class PlacedBottleneck:
    """The term added to the output y of one linear layer: W_up f(W_down y + b_down) + b_up.

    Attributes:
        down: W_down, (rank, d).
        down_bias: (rank,)
        up: W_up, (d, rank).
        up_bias: (d,)
    """

    down: torch.Tensor
    down_bias: torch.Tensor
    up: torch.Tensor
    up_bias: torch.Tensor
    activation: str

    def of(self, y: torch.Tensor) -> torch.Tensor:
        """The term for y, (…, d)."""
        inner = nn.functional.linear(y, self.down, self.down_bias)
        return nn.functional.linear(activated(inner, self.activation), self.up, self.up_bias)


@dataclass(frozen=True, eq=False)
class ServedAdapter:
    """One version of one adapter, immutable: a newer version is another object.

    Attributes:
        factors: by layer name in the base.
    """

    name: str
    factors: Mapping[str, Factors]
    bottlenecks: Mapping[str, PlacedBottleneck] = field(default_factory=dict[str, "PlacedBottleneck"])


def place_adapter(name: str, spec: AdapterSpec, state: AdapterState, compute: Compute) -> ServedAdapter:
    """Move an adapter to the device and to the base's type."""

    def placed(values: torch.Tensor) -> torch.Tensor:
        return values.to(device=compute.device, dtype=compute.dtype).contiguous()

    flat = state.flat.copy()  # torch cannot wrap a read-only buffer

    def within(slot: TensorSlot) -> torch.Tensor:
        return placed(torch.from_numpy(flat[slot.offset : slot.offset + slot.size].reshape(slot.shape)))

    return ServedAdapter(
        name,
        {
            in_base(pair.module): Factors(
                placed(torch.from_numpy(pair.a_of(flat))), placed(torch.from_numpy(pair.b_of(flat))), pair.scale
            )
            for pair in geometry_of(spec).pairs
        },
        {
            in_base(each.module): PlacedBottleneck(
                within(each.down), within(each.down_bias), within(each.up), within(each.up_bias), activation_of(spec)
            )
            for each in bottlenecks_of(spec.layout)
        },
    )

"""An adapter for serving: its factors by layer of the base, on the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from plait.adapters import AdapterState
from plait.aggregation.geometry import Geometry
from plait.training.device import Compute

_PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True, eq=False)
class Factors:
    """The term added to one linear layer: scale * B A.

    Attributes:
        A: (rank, d_in)
        B: (d_out, rank)
        scale: scaling factor of the product.
    """

    A: torch.Tensor
    B: torch.Tensor
    scale: float


@dataclass(frozen=True, eq=False)
class ServedAdapter:
    """One version of one adapter, immutable: a newer version is another object.

    Attributes:
        factors: by layer name in the base.
    """

    name: str
    factors: Mapping[str, Factors]


def place_adapter(name: str, geometry: Geometry, state: AdapterState, compute: Compute) -> ServedAdapter:
    """Move an adapter to the device and to the base's type.

    Args:
        name: for messages.
        geometry: its pairs.
        state: its values.
        compute: the base's device and type.
    """

    def placed(values: torch.Tensor) -> torch.Tensor:
        return values.to(device=compute.device, dtype=compute.dtype).contiguous()

    flat = state.flat.copy()  # torch cannot wrap a read-only buffer
    return ServedAdapter(
        name,
        {
            pair.module.removeprefix(_PEFT_PREFIX): Factors(
                placed(torch.from_numpy(pair.a_of(flat))), placed(torch.from_numpy(pair.b_of(flat))), pair.scale
            )
            for pair in geometry.pairs
        },
    )

"""An adapter as it is served: its factors by layer of the base, on the device."""

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
    """What is added to one linear layer: scale * B A.

    Attributes:
        A: (rank, d_in)
        B: (d_out, rank)
        scale: how often the product counts.
    """

    A: torch.Tensor
    B: torch.Tensor
    scale: float


@dataclass(frozen=True, eq=False)
class ServedAdapter:
    """One version of one adapter. It is never changed: a newer version is another object.

    Attributes:
        name: for messages.
        factors: by the name of the layer in the base.
    """

    name: str
    factors: Mapping[str, Factors]


def place_adapter(name: str, geometry: Geometry, state: AdapterState, compute: Compute) -> ServedAdapter:
    """Bring an adapter to the device and into the type of the base.

    Args:
        name: for messages.
        geometry: its pairs.
        state: its values.
        compute: where the base is, and its type.
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

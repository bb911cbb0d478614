"""Whether an adapter's factors fit the layers of a base, from the base's config alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plait.adapters.module_names import in_base
from plait.aggregation.geometry import Geometry
from plait.errors import BaseMismatchError, ConfigError

if TYPE_CHECKING:
    # At run time it would import torch, which most refusals need not wait for.
    from plait.training.export_weights import BaseShape


def check_fit(geometry: Geometry, shape: BaseShape, *, base: str) -> None:
    """Refuse an adapter with a factor for a layer that the base lacks or has in another shape.

    Raises:
        BaseMismatchError: a layer is missing or has another shape.
        ConfigError: the adapter changes an embedding, or an output layer tied to it.
    """
    for pair in geometry.pairs:
        name = in_base(pair.module)
        if ".lora_embedding_" in pair.a.name or (shape.tied and name == shape.output):
            tied = ", which is also the output layer," if shape.tied else ""
            raise ConfigError(
                f"the adapter changes the embedding of base '{base}'{tied} and only PEFT applies that correctly: "
                "export --to peft, or train with --target-modules all-linear"
            )
        expected = shape.linear.get(name)
        if expected is None:
            raise BaseMismatchError(f"base '{base}' has no linear layer '{name}', which the adapter changes")
        if (pair.d_out, pair.d_in) != expected:
            raise BaseMismatchError(
                f"the adapter changes '{name}' as {pair.d_out} x {pair.d_in}, base '{base}' has it as "
                f"{expected[0]} x {expected[1]}"
            )

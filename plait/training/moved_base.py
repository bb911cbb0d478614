"""Add the base's movement to the weights of a loaded base."""

from __future__ import annotations

import torch
from torch import nn

from plait.adapters.module_names import in_base
from plait.aggregation import BaseDelta, Geometry
from plait.errors import ConfigError


def move_weights(model: nn.Module, delta: BaseDelta, geometry: Geometry) -> None:
    """W0 += b @ a for every module that moved, rounded once to the weights' type; in place.

    Raises:
        ConfigError: a module has no floating-point weight of that shape (a quantised base cannot be moved).
    """
    modules = dict(model.named_modules())
    for pair in geometry.pairs:
        factors = delta.factors.get(pair.module)
        if factors is None or not factors.columns:
            continue
        name = in_base(pair.module)
        weight = getattr(modules.get(name), "weight", None)
        if not isinstance(weight, nn.Parameter) or not weight.is_floating_point():
            raise ConfigError(
                f"base of '{name}' has no floating-point weight, which a rule that moves the base needs; "
                "use a base that is not quantised or another rule"
            )
        if weight.shape not in ((pair.d_out, pair.d_in), (pair.d_in, pair.d_out)):
            raise ConfigError(f"weight of '{name}' is {tuple(weight.shape)}, expected {(pair.d_out, pair.d_in)}")
        b, a = (torch.from_numpy(array).to(weight.device, torch.float32) for array in (factors.b, factors.a))
        change = b @ a
        if type(modules[name]).__name__ == "Conv1D":
            # GPT-2's layer stores its weight transposed.
            change = change.T
        with torch.no_grad():
            weight.copy_(weight.float() + change)

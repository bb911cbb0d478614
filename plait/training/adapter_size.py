"""The size of an adapter on a base, from shapes alone, so that no excessively large adapter is built.

Counts what PEFT would allocate, including fixed factors, and knows nothing of values. Modules that a setting excludes
are counted anyway: the result is an upper bound.
"""

from __future__ import annotations

import math
from collections.abc import Set as AbstractSet
from typing import cast

from peft import PeftConfig, PeftType
from torch import nn

from plait.adapters.module_names import ends_of
from plait.adapters.spec import BOTTLENECK_TYPE
from plait.errors import ConfigError

SMALL = 1 << 24
"""Parameters that an adapter may have on any base; the limit is the base's own size if that is larger."""


def check_size(model: nn.Module, config: PeftConfig) -> None:
    """Refuse an adapter with more parameters than the base, on whatever device, and than `SMALL`."""
    most = max(SMALL, sum(parameter.numel() for parameter in model.parameters()))
    size = adapter_size(model, config)
    if size > most:
        raise ConfigError(
            f"the adapter would have {size} parameters, expected at most {most} on this base: ask for a lower rank, "
            "fewer virtual tokens or fewer modules"
        )


def adapter_size(model: nn.Module, config: PeftConfig) -> int:
    """Upper bound of the numbers that PEFT allocates for an adapter on `model`."""
    whole = sum(map(_parameters, _matching(model, _names(config, "modules_to_save")).values()))
    if config.is_prompt_learning:
        return whole + _prompt_size(model, config)
    targets = _targets(model, config)
    if config.peft_type == PeftType.LN_TUNING:
        return whole + sum(map(_parameters, targets.values()))
    if config.peft_type == PeftType.VERA:
        shapes = [_shape(module) for module in targets.values()]
        rank = cast("int", getattr(config, "r", 1))
        # Two projections are shared by all modules.
        shared = rank * (max(rows for rows, _ in shapes) + max(columns for _, columns in shapes)) if shapes else 0
        return whole + shared + sum(rank + rows + columns for rows, columns in shapes)
    return whole + sum(_size_on(config, *_shape(module)) for module in targets.values())


def _size_on(config: PeftConfig, rows: int, columns: int) -> int:
    rank = cast("int", getattr(config, "r", None) or 0)
    factors = rank * (rows + columns)
    if config.peft_type == PeftType.PEANUT:
        depth = cast("int", getattr(config, "depth", 0))
        return 2 * rank * max(rows, columns) + 2 * depth * rank * rank
    if config.peft_type == BOTTLENECK_TYPE:
        # Both sides read or write the layer's output; which dimension that is depends on the kind of layer.
        return (2 * rank + 1) * max(rows, columns) + rank
    # A magnitude or a scale beside the factors, and LoRA-XS's square matrix.
    return factors + rows + columns + (rank * rank if config.peft_type == PeftType.PSOFT else 0)


def _targets(model: nn.Module, config: PeftConfig) -> dict[str, nn.Module]:
    targets = getattr(config, "target_modules", None)
    if targets is None or isinstance(targets, str):
        # "all-linear", or PEFT's own choice for this architecture.
        return {name: module for name, module in model.named_modules() if _is_linear(module)}
    return _matching(model, set(cast("list[str]", targets)))


def _matching(model: nn.Module, names: AbstractSet[str]) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if not names.isdisjoint(ends_of(name))}


def _names(config: PeftConfig, key: str) -> AbstractSet[str]:
    return set(cast("list[str]", getattr(config, key, None) or ()))


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _shape(module: nn.Module) -> tuple[int, int]:
    """Rows and columns of a module's weight; a convolution's kernel counts with its columns."""
    if isinstance(module, nn.Linear):
        # A weight of four bits is packed, so its shape says nothing.
        return module.out_features, module.in_features
    weight = getattr(module, "weight", None)
    shape = tuple(getattr(weight, "shape", ()))
    return (shape[0], math.prod(shape[1:])) if shape else (0, 0)


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _prompt_size(model: nn.Module, config: PeftConfig) -> int:
    base = getattr(model, "config", None)
    text = base.get_text_config() if base is not None else None

    def stated(key: str, *names: str) -> int:
        found = [getattr(config, key, None), *(getattr(text, name, None) for name in names)]
        return next((value for value in found if isinstance(value, int)), 1)

    width = stated("token_dim", "hidden_size", "n_embd", "d_model")
    tokens = stated("num_virtual_tokens") * stated("num_transformer_submodules")
    if config.peft_type == PeftType.PREFIX_TUNING:
        return tokens * width * 2 * stated("num_layers", "num_hidden_layers", "n_layer")
    hidden = stated("encoder_hidden_size", "hidden_size") if config.peft_type == PeftType.P_TUNING else 0
    return tokens * width + hidden * (2 * width + hidden + 3)

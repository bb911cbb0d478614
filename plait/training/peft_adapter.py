"""An adapter as PEFT has it: its configuration, its tensors on a model, the form in which it is served, and its size.

The size is an upper bound of what PEFT would allocate, from shapes alone: nothing excessively large is built.
"""

import copy
import enum
import json
import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import cast

import torch
from peft import (
    PeftConfig,
    PeftModel,
    PeftType,
    PromptEncoder,
    PromptEncoderConfig,
    get_peft_model,
    get_peft_model_state_dict,
)
from torch import nn
from transformers import PreTrainedModel

from plait.adapters import AdapterSpec, AdapterState, AdapterTask, Layout
from plait.adapters.method import AdapterRequest, BaseModules, ends_of
from plait.adapters.methods import check_options
from plait.adapters.peft_settings import TYPE_OF_TASK
from plait.adapters.spec import BOTTLENECK_TYPE
from plait.errors import BaseMismatchError, ConfigError
from plait.system.text import Json

PROMPT = "prompt_embeddings"
"""PEFT's name of a learned prompt."""
_ENCODER = "prompt_encoder."
SMALL = 1 << 24
"""Parameters that an adapter may have on any base; the limit is the base's own size if that is larger."""
_ALWAYS_STATED = frozenset({"peft_type", "task_type", "r", "lora_alpha", "target_modules"})


def peft_config_for(request: AdapterRequest, task: AdapterTask, base: BaseModules) -> PeftConfig:
    """PEFT's configuration of the requested method."""
    method = check_options(request)
    settings = {**method.settings(request, base), **method.fixed}
    if base.heads:
        settings["modules_to_save"] = list(base.heads)
    return _config(peft_type=method.peft_type, task_type=TYPE_OF_TASK[task], **settings)


def peft_config_of(settings: Mapping[str, Json]) -> PeftConfig:
    """PEFT's configuration from checked settings; KeyError, TypeError or ValueError if they are invalid."""
    return _config(**copy.deepcopy(dict(settings)))


def _config(**settings: object) -> PeftConfig:
    if settings["peft_type"] == BOTTLENECK_TYPE:
        from plait.training.bottleneck import register

        register()
    with warnings.catch_warnings():
        # As in `Method.kept` for VeRA: its matrices come from a seed.
        warnings.simplefilter("ignore")
        return PeftConfig.from_peft_type(**settings)


def settings_of(config: PeftConfig) -> dict[str, Json]:
    """PEFT's configuration as JSON, without PEFT's defaults, so that versions of PEFT agree on the digest."""

    def plain(item: object) -> object:
        if isinstance(item, (set, frozenset)):
            return sorted(cast("set[str]", item))
        return item.value if isinstance(item, enum.Enum) else str(item)

    def as_json(value: PeftConfig) -> dict[str, Json]:
        return cast("dict[str, Json]", json.loads(json.dumps(value.to_dict(), default=plain, sort_keys=True)))

    defaults, stated = as_json(type(config)()), as_json(config)
    for key in ("target_modules", "exclude_modules", "modules_to_save", "feedforward_modules"):
        # PEFT keeps these as sets, or adds its own names again: a list in name order means the same.
        if isinstance(value := stated.get(key), list):
            stated[key] = cast("list[Json]", sorted(set(cast("list[str]", value))))
    return {key: value for key, value in stated.items() if key in _ALWAYS_STATED or value != defaults.get(key)}


def attach(model: nn.Module, peft_config: PeftConfig, *, in_float32: bool = True) -> PeftModel:
    """Put an adapter on a model, in float32 or in the base's type; ConfigError if it does not fit."""
    check_size(model, peft_config)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            base = cast("PreTrainedModel", model)
            return cast("PeftModel", get_peft_model(base, peft_config, autocast_adapter_dtype=in_float32))
    except (ValueError, TypeError, KeyError, NotImplementedError) as error:
        raise ConfigError(f"the adapter does not fit this base: {first_sentence(error)}") from error


def adapter_tensors(model: PeftModel) -> dict[str, torch.Tensor]:
    """The adapter's tensors under PEFT's file names, sharing memory; of prompt encoders, their parameters."""
    tensors = {
        name: tensor
        for name, tensor in get_peft_model_state_dict(model, save_embedding_layers=False).items()
        # With biases, PEFT also lists the bias of the head that its own copy replaces.
        if ".original_module." not in name
    }
    if not model.active_peft_config.is_prompt_learning:
        return tensors
    encoder = dict(model.prompt_encoder["default"].named_parameters())
    del tensors[PROMPT]
    if encoder.keys() == {"embedding.weight"}:
        return {**tensors, PROMPT: encoder["embedding.weight"]}
    return {**tensors, **{f"{_ENCODER}{name}": parameter for name, parameter in encoder.items()}}


def check_layout(model: PeftModel, spec: AdapterSpec, *, base: str) -> None:
    """Refuse an adapter whose tensors are not those that its configuration makes; BaseMismatchError."""
    shapes = {name: tuple(tensor.shape) for name, tensor in adapter_tensors(model).items()}
    if shapes != {slot.name: slot.shape for slot in spec.layout.slots}:
        raise BaseMismatchError(
            f"the adapter's {len(spec.layout.slots)} tensors are not the {len(shapes)} "
            f"that its configuration makes on base '{base}'"
        )


# The settings that a plain prompt shares with an encoded one.
_SHARED_KEYS = (
    "task_type", "num_virtual_tokens", "token_dim", "num_transformer_submodules", "num_attention_heads", "num_layers",
    "modules_to_save",
)  # fmt: skip


def servable(spec: AdapterSpec, state: AdapterState) -> tuple[AdapterSpec, AdapterState]:
    """The adapter in file form: with the encoder's prompt in place of the encoder; otherwise unchanged."""
    if spec.peft_config.get("peft_type") != "P_TUNING":
        return spec, state
    config = cast("PromptEncoderConfig", peft_config_of(spec.peft_config))
    encoder = PromptEncoder(config)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            parameter.copy_(torch.from_numpy(state[f"{_ENCODER}{name}"].copy()))
        tokens = (config.num_virtual_tokens or 0) * (config.num_transformer_submodules or 1)
        prompt = encoder(torch.arange(tokens)).numpy()
    tensors = {name: tensor for name, tensor in state.items() if not name.startswith(_ENCODER)}
    tensors[PROMPT] = prompt
    layout = Layout.of({name: tensor.shape for name, tensor in tensors.items()})
    settings: dict[str, Json] = {key: spec.peft_config[key] for key in _SHARED_KEYS if key in spec.peft_config}
    plain = replace(spec, method="prompt", peft_config={**settings, "peft_type": "PROMPT_TUNING"}, layout=layout)
    return plain, AdapterState.from_tensors(layout, tensors)


def first_sentence(error: Exception) -> str:
    """The first sentence of PEFT's error."""
    return str(error).strip().splitlines()[0].split(". ")[0]


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
    whole = sum(map(_parameters, _matching(model, getattr(config, "modules_to_save", None) or ()).values()))
    if config.is_prompt_learning:
        return whole + _prompt_size(model, config)
    targets = _targets(model, config)
    if config.peft_type == PeftType.LN_TUNING:
        return whole + sum(map(_parameters, targets.values()))
    if config.peft_type == PeftType.VERA:
        shapes = [_rows_and_columns(module) for module in targets.values()]
        rank = cast("int", getattr(config, "r", 1))
        # Two projections are shared by all modules.
        shared = rank * (max(rows for rows, _ in shapes) + max(columns for _, columns in shapes)) if shapes else 0
        return whole + shared + sum(rank + rows + columns for rows, columns in shapes)
    return whole + sum(_size_on(config, *_rows_and_columns(module)) for module in targets.values())


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
        return {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
        }
    return _matching(model, targets)


def _matching(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    wanted = set(names)
    return {name: module for name, module in model.named_modules() if not wanted.isdisjoint(ends_of(name))}


def _rows_and_columns(module: nn.Module) -> tuple[int, int]:
    """Rows and columns of a module's weight; a convolution's kernel counts with its columns."""
    if isinstance(module, nn.Linear):
        # A weight of four bits is packed, so its shape is another.
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

"""The parts of an export that need torch: the layers of a base, and merging adapters beyond plain LoRA, by PEFT."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from plait.adapters import AdapterSpec, AdapterState, AdapterTask
from plait.errors import ConfigError, MachineError
from plait.training.blueprint import load_base, meta_model, read_base_config
from plait.training.peft_adapter import attach, check_layout, peft_config_of
from plait.training.resident import load_adapter

_SHARD_SIZE = "5GB"
_STORED_TYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class BaseShape:
    """A base by its config; `linear` is (d_out, d_in) of every linear layer, the output layer included."""

    model_type: str
    layers: int
    heads: int
    kv_heads: int
    tied: bool
    quantised: bool
    linear: Mapping[str, tuple[int, int]]
    output: str | None


def describe_base(directory: Path, task: AdapterTask, labels: tuple[str, ...] = ()) -> BaseShape:
    """Read a base's config and build its layers without their weights."""
    config = read_base_config(directory, task, labels)
    model = meta_model(config, task)
    heads = _count(config, "num_attention_heads")
    head = model.get_output_embeddings()
    return BaseShape(
        model_type=str(config.model_type),
        layers=_count(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=_count(config, "num_key_value_heads") or heads,
        tied=bool(getattr(config, "tie_word_embeddings", False)),
        quantised=getattr(config, "quantization_config", None) is not None,
        linear={name: shape for name, module in model.named_modules() if (shape := _linear_shape(module))},
        output=next((name for name, module in model.named_modules() if module is head), None),
    )


def merge_with_peft(directory: Path, spec: AdapterSpec, state: AdapterState, folder: Path) -> None:
    """Merge an adapter into the base in float32, round once to its type, and save; ConfigError, MachineError."""
    config = read_base_config(directory, spec.task, spec.labels)
    stored = config.dtype if config.dtype in _STORED_TYPES else torch.float32
    try:
        loaded = load_base(directory, config, spec.task, saved=spec.saved_modules, dtype=torch.float32)
        model = attach(loaded, peft_config_of(spec.peft_config))
        check_layout(model, spec, base=directory.name)
        load_adapter(model, state)
        merge = getattr(model.base_model, "merge_and_unload", None)
        if merge is None:
            raise ConfigError(f"{spec.method} changes the input, not the weights, so it cannot be merged: --to peft")
        merged = cast("PreTrainedModel", merge(safe_merge=True))
        cast("nn.Module", merged).to(stored)
        merged.config.dtype = stored
        merged.save_pretrained(folder, max_shard_size=_SHARD_SIZE)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise MachineError(
            f"base '{directory.name}' does not fit into memory in float32, which merging needs"
        ) from error
    except (NotImplementedError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"{spec.method} cannot be merged into base '{directory.name}': {reason}") from error
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    tokenizer.save_pretrained(folder)


def _linear_shape(module: nn.Module) -> tuple[int, int] | None:
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    if isinstance(module, Conv1D):
        rows, columns = module.weight.shape
        return columns, rows
    return None


def _count(config: PretrainedConfig, key: str) -> int:
    value = getattr(config.get_text_config(), key, None)
    return value if isinstance(value, int) else 0

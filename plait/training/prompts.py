"""The prompt of an encoder (P-tuning), as the plain prompt that it is after training."""

from __future__ import annotations

from typing import cast

import torch
from peft import PromptEncoder, PromptEncoderConfig

from plait.adapters import AdapterSpec, AdapterState, Json, Layout
from plait.training.blueprint import PROMPT, peft_config_of

_ENCODER = "prompt_encoder."
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
    plain = AdapterSpec(
        method="prompt",
        peft_config={**settings, "peft_type": "PROMPT_TUNING"},
        task=spec.task,
        labels=spec.labels,
        layout=layout,
        init_seed=spec.init_seed,
    )
    return plain, AdapterState.from_tensors(layout, tensors)

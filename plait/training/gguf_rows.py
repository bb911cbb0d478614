"""The matrices of a GGUF file that lies beside a base, in the file's own blocks, which need not be rounded again.

llama.cpp turns neighbouring rows of a head where transformers turns both halves, so rows of queries and keys are put
back into transformers' order; blocks never cross rows. Knows no model beyond names and shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import torch
from transformers import PretrainedConfig

from plait.training.fused.few_bits import FORMATS, Rows

FILE = "model.gguf"
"""Its name beside the safetensors."""
_TURNED = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}


def gguf_rows(directory: Path, config: PretrainedConfig, dtype: torch.dtype) -> Mapping[str, Rows]:
    """What the file holds in a format of `FORMATS`, by transformers' name of the layer.

    Nothing without a file that can be read: whatever it lacks is rounded anew.

    Args:
        directory: of the base.
        config: of the base.
        dtype: of the values to compute with.
    """
    path = directory / FILE
    try:
        return _read(path, config, dtype) if path.is_file() else {}
    except (ValueError, IndexError, KeyError, OSError):  # of the reader, for a file that is damaged
        return {}


def _read(path: Path, config: PretrainedConfig, dtype: torch.dtype) -> Mapping[str, Rows]:
    reader = gguf.GGUFReader(path)
    field = reader.get_field("general.architecture")
    name = field.contents() if field else None
    architecture = next((arch for arch, known in gguf.MODEL_ARCH_NAMES.items() if known == name), None)
    if architecture is None:
        return {}
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    layers = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
    inside = (*layers, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    wanted = [f"model.layers.{block}.{layer}" for block in range(config.num_hidden_layers) for layer in inside]
    theirs = {names.get_name(own): own for own in ("model.embed_tokens", "lm_head", *wanted)}
    found: dict[str, Rows] = {}
    for tensor in reader.tensors:
        own, form = theirs.get(tensor.name.removesuffix(".weight")), FORMATS.get(tensor.tensor_type.name)
        if own is None or form is None:
            continue
        width, rows = (int(size) for size in tensor.shape)
        # Read anew: what the reader shows is the file itself, whose pages would stay in memory.
        held = np.fromfile(path, np.uint8, int(tensor.n_bytes), offset=int(tensor.data_offset)).reshape(rows, -1)
        heads = _TURNED.get(tensor.name.split(".")[-2])
        if architecture == gguf.MODEL_ARCH.LLAMA and heads is not None:
            turned = held.reshape(getattr(config, heads), -1, 2, held.shape[1])
            held = np.ascontiguousarray(turned.swapaxes(1, 2)).reshape(held.shape)
        packed = Rows(torch.from_numpy(held), form, dtype)
        if packed.shape[1] == width:
            found[own] = packed
    return found

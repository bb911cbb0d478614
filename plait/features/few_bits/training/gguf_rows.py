"""The matrices of a GGUF file that lies beside a base, in the file's own blocks, which need not be rounded again.

Blocks never cross rows. Knows no model beyond names and shapes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import gguf
import torch
from transformers import PretrainedConfig

from plait.errors import DataError
from plait.features.few_bits.training.formats import FORMATS, Format, Rows
from plait.training.gguf_beside import EMBEDDING, HEAD, gguf_beside, in_transformers_order, turned_heads
from plait.training.gguf_header import GgufTensor, read_gguf_header


def gguf_rows(directory: Path, config: PretrainedConfig, dtype: torch.dtype) -> Mapping[str, Rows]:
    """What the file holds in a format of `FORMATS`, by transformers' name of the layer.

    Nothing without a file that can be read: whatever it lacks is rounded anew.
    """
    path = gguf_beside(directory)
    try:
        return _read(path, config, dtype) if path.is_file() else {}
    except _DAMAGED:
        return {}


def gguf_sizes(directory: Path, config: PretrainedConfig) -> Mapping[str, tuple[int, int]]:
    """Of all that `gguf_rows` would find, how many values it has and how many bytes they take."""
    path = gguf_beside(directory)
    try:
        found = _matrices(path, config) if path.is_file() else ()
        return {each.own: (each.tensor.size, each.tensor.nbytes) for each in found}
    except _DAMAGED:
        return {}


_DAMAGED = (DataError, ValueError, IndexError, KeyError, OSError)  # of the readers, for a file that is


@dataclass(frozen=True)
class _Matrix:
    own: str  # transformers' name
    tensor: GgufTensor
    form: Format
    turned: str  # the config's name of how many heads' rows llama.cpp has turned; "" for none


def _matrices(path: Path, config: PretrainedConfig) -> Iterator[_Matrix]:
    """What of the file is in a format of `FORMATS`, without its values."""
    header = read_gguf_header(path)
    name = header.values.get("general.architecture")
    architecture = next((arch for arch, known in gguf.MODEL_ARCH_NAMES.items() if known == name), None)
    if architecture is None:
        return
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    layers = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
    inside = (*layers, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    wanted = [f"model.layers.{block}.{layer}" for block in range(config.num_hidden_layers) for layer in inside]
    theirs = {names.get_name(own): own for own in (EMBEDDING, HEAD, *wanted)}
    for tensor in header.tensors.values():
        own, form = theirs.get(tensor.name.removesuffix(".weight")), FORMATS.get(tensor.kind.name)
        if own is not None and form is not None:
            yield _Matrix(own, tensor, form, turned_heads(tensor.name, gguf.MODEL_ARCH_NAMES[architecture]))


def _read(path: Path, config: PretrainedConfig, dtype: torch.dtype) -> Mapping[str, Rows]:
    found: dict[str, Rows] = {}
    for each in _matrices(path, config):
        held = each.tensor.rows(path)
        if each.turned:
            held = in_transformers_order(held, getattr(config, each.turned))
        packed = Rows(torch.from_numpy(held), each.form, dtype)
        if packed.shape[1] == each.tensor.shape[-1]:
            found[each.own] = packed
    return found

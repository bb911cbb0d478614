"""Load a base in few bits for a CPU: NF4 in its blocks as in QLoRA (arXiv 2305.14314), Q5_0 outside; or all in Q8_0.

If a GGUF file beside the base has its values, its blocks are used directly (`gguf_rows`). Weights are
read and rounded piece by piece, so main memory never holds the base in full. Knows no adapter.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import cast

import numpy as np
import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from plait.adapters import Task
from plait.adapters.fingerprint import StoredTensor, stored_tensors
from plait.adapters.module_names import is_saved
from plait.features.few_bits.training.formats import Q5_0, Q8_0, NormalFloat, Rows, eight_bits, five_bits
from plait.features.few_bits.training.gguf_rows import gguf_rows
from plait.features.few_bits.training.layers import FewBitsEmbedding, FewBitsLinear
from plait.training.blueprint import AUTO_CLASSES, load_base
from plait.training.device import Compute

Parts = Callable[[], Iterator[torch.Tensor]]
"""The values of a tensor in order, in pieces."""

_PIECE = 1 << 22  # numbers that are rounded at once
_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def load_in_few_bits(
    directory: Path,
    config: PretrainedConfig,
    *,
    task: Task,
    compute: Compute,
    attention: str,
    whole: Collection[str] = (),
    whole_tables: bool = False,
    in_eight: bool = False,
) -> PreTrainedModel:
    """The base in `directory`, on the CPU.

    Args:
        whole: modules that the adapter holds, as `AdapterSpec.saved_modules`, which stay as they are.
        in_eight: whether all is in eight bits, and what has rows of no whole blocks stays as it is.
    """
    settings = {"dtype": compute.dtype, "attn_implementation": attention}
    with init_empty_weights(include_buffers=False):
        model = cast("PreTrainedModel", AUTO_CLASSES[task].from_config(config, trust_remote_code=False, **settings))
    model.tie_weights()
    found = _places(model, stored_tensors(directory), whole)
    if found is None:
        # Names or shapes that only transformers can make a model of: read whole, then rounded.
        model = load_base(directory, config, task, saved=whole, **settings)
    round_model(
        model,
        {} if found is None else found,
        rounded=gguf_rows(directory, config, compute.dtype) if task is Task.CAUSAL_LM else {},
        dtype=compute.dtype,
        whole=whole,
        whole_tables=whole_tables,
        in_eight=in_eight,
    )
    return model.eval()


def round_model(
    model: PreTrainedModel,
    places: Mapping[str, StoredTensor],
    *,
    rounded: Mapping[str, Rows],
    dtype: torch.dtype,
    whole: Collection[str] = (),
    whole_tables: bool = False,
    in_eight: bool = False,
) -> None:
    """Replace embedding, head and linear layers by ones of few bits, and fill in all else; in place.

    Args:
        places: where the values are; of others, the model has them.
    """
    in_rows = eight_bits if in_eight else five_bits
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    tied = outputs is not None and outputs.weight is inputs.weight
    table: FewBitsEmbedding | None = None
    for name, module in list(model.named_modules()):
        if is_saved(f"{name}.weight", whole):
            continue
        place = places.get(f"{name}.weight")
        if module is inputs and isinstance(inputs, nn.Embedding):
            held = None if whole_tables else _table(rounded.get(name), place, inputs.weight, dtype, in_rows)
            table = held and FewBitsEmbedding(held, inputs.padding_idx)
            if table is not None:
                _replace(model, name, table)
        elif module is outputs and isinstance(outputs, nn.Linear):
            held = None if whole_tables or tied else _table(rounded.get(name), place, outputs.weight, dtype, in_rows)
            held = table.held if tied and table is not None else held
            if held is not None:
                _replace(model, name, FewBitsLinear(held, _bias(name, outputs, places, dtype)))
        elif type(module) is nn.Linear:
            shape = module.weight.shape
            held = _as_rounded(rounded.get(name), _parts(place, module.weight), shape)
            held = held or _matrix(_parts(place, module.weight), shape, dtype, in_eight=in_eight)
            if held is not None:
                _replace(model, name, FewBitsLinear(held, _bias(name, module, places, dtype)))
        elif type(module) is Conv1D:
            turned = torch.cat(list(_parts(place, module.weight))).view(module.weight.shape).t().contiguous()
            held = _matrix([turned.flatten()], turned.shape, dtype, in_eight=in_eight)
            if held is not None:
                _replace(model, name, FewBitsLinear(held, _bias(name, module, places, dtype)))
    _fill(model, places, dtype)


def _matrix(
    parts: Iterable[torch.Tensor], shape: torch.Size, dtype: torch.dtype, *, in_eight: bool
) -> NormalFloat | Rows | None:
    """A linear layer's; None if it stays as it is."""
    if not in_eight:
        return NormalFloat.of(parts, shape, dtype)
    return None if shape[1] % Q8_0.values else eight_bits(parts, shape, dtype)


def _as_rounded(rows: Rows | None, parts: Iterator[torch.Tensor], shape: torch.Size) -> Rows | None:
    """These rows if they have the base's values, which alone are in its fingerprint, up to either type's rounding."""
    if rows is None or rows.shape != shape:
        return None
    first, width = 0, shape[1]
    for part in parts:
        last = first + part.numel()
        begin, end = first // width, -(-last // width)
        values = rows.between(begin, end).unpacked().flatten()[first - begin * width : last - begin * width]
        if not (torch.equal(values, part.to(values.dtype)) or torch.equal(values.to(part.dtype), part)):
            return None
        first = last
    return rows


def _table(
    rows: Rows | None,
    place: StoredTensor | None,
    weight: torch.Tensor,
    dtype: torch.dtype,
    in_rows: Callable[[Iterable[torch.Tensor], torch.Size, torch.dtype], Rows],
) -> Rows | None:
    """An embedding or a head; None if its rows are no whole blocks."""
    if weight.shape[1] % Q5_0.values:
        return None
    held = _as_rounded(rows, _parts(place, weight), weight.shape)
    return held or in_rows(_parts(place, weight), weight.shape, dtype)


def _places(
    model: nn.Module, stored: Mapping[str, StoredTensor], whole: Collection[str]
) -> dict[str, StoredTensor] | None:
    """Where each of the model's values is; None if one is not there under its own name, with its own shape."""
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    found: dict[str, StoredTensor] = {}
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        place = next((stored[key] for key in (name, name.removeprefix(prefix), prefix + name) if key in stored), None)
        if place is None:
            if tensor.is_meta and not is_saved(name, whole):
                return None
        elif place.entry.shape != tuple(tensor.shape) or place.entry.dtype not in _TYPES:
            return None
        else:
            found[name] = place
    return found


def _parts(place: StoredTensor | None, tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The values of a tensor in pieces, flat: those of its file, or its own."""
    if place is None:
        yield from tensor.detach().flatten().split(_PIECE)
        return
    dtype = _TYPES[place.entry.dtype]
    with place.path.open("rb") as file:
        file.seek(place.entry.begin)
        for first in range(0, place.entry.size, _PIECE):
            count = min(_PIECE, place.entry.size - first)
            yield torch.from_numpy(np.fromfile(file, np.uint8, count * dtype.itemsize)).view(dtype)


def _bias(
    name: str, module: nn.Linear | Conv1D, places: Mapping[str, StoredTensor], dtype: torch.dtype
) -> nn.Parameter | None:
    bias = cast("torch.Tensor | None", module.bias)
    return None if bias is None else _filled(places.get(f"{name}.bias"), bias, dtype)


def _filled(place: StoredTensor | None, tensor: torch.Tensor, dtype: torch.dtype) -> nn.Parameter:
    values = torch.cat(list(_parts(place, tensor))) if place or not tensor.is_meta else torch.zeros(tensor.numel())
    return nn.Parameter(values.view(tensor.shape).to(dtype), requires_grad=False)


def _fill(model: nn.Module, places: Mapping[str, StoredTensor], dtype: torch.dtype) -> None:
    """Norms, whole embeddings, new heads, buffers."""
    made: dict[int, nn.Parameter] = {}
    for name, module in model.named_modules():
        for leaf, tensor in list(module.named_parameters(recurse=False)):
            if id(tensor) not in made:
                made[id(tensor)] = _filled(places.get(f"{name}.{leaf}"), tensor, dtype)
            setattr(module, leaf, made[id(tensor)])
        for leaf, buffer in list(module.named_buffers(recurse=False)):
            if place := places.get(f"{name}.{leaf}"):
                module.register_buffer(leaf, torch.cat(list(_parts(place, buffer))).view(buffer.shape).to(buffer.dtype))


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module.eval())

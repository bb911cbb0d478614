"""A bare GGUF file as a base: the model directory with its values, made once in the cache.

The config follows from the file's header (`gguf_config`), the tokenizer is the one that transformers reads. Each tensor
is read, computed and written in pieces: a matrix in float16 or float32 keeps its type, all else becomes bfloat16. The
file's own blocks lie beside , where a base of few bits uses them as they are. Only architectures whose
tensors are those of transformers' model, one for one.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import cast

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedModel

from plait.adapters.strict_json import shown
from plait.data.cache import cache_directory
from plait.errors import DataError, MachineError
from plait.files import directory_written_aside, is_ours, make_private_directory
from plait.training.gguf_beside import gguf_beside, in_transformers_order, turned_heads
from plait.training.gguf_config import config_of_gguf, is_setting
from plait.training.gguf_header import GgufTensor, read_gguf_header

_PIECE = 1 << 22  # values that are computed at once
_DIGITS = 16
_KEPT = {"F16": torch.float16, "F32": torch.float32}
_NAMES = {torch.float16: "F16", torch.float32: "F32", torch.bfloat16: "BF16"}
# Of transformers and the gguf package, for a file whose header is in order and whose contents are not.
_DAMAGED = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError, OSError)


def gguf_directory(path: Path) -> Path:
    """Where a file's base is in the cache, whether it has been made or not.

    Raises:
        MachineError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise MachineError(f"cannot read '{path}': {error.strerror or error}") from error
    return cache_directory() / "bases" / f"gguf-{digest[:_DIGITS]}"


def base_of_gguf(path: Path, *, progress: Callable[[str], None]) -> Path:
    """The model directory of a GGUF file, which is written if the cache does not have it.

    Raises:
        DataError: it is damaged, or no base that this can read; the message says why.
        MachineError: the file cannot be read or the cache not be written.
    """
    target = gguf_directory(path)
    if is_ours(target) and (target / "config.json").is_file():
        return target
    if target.exists():
        raise MachineError(f"'{target}' can be changed by others, expected a cache of your own; remove it")
    progress(f"converting {path.name} (once)")
    make_private_directory(target.parent)
    with directory_written_aside(target) as folder:
        write_base(path, folder)
        # A base in few bits need not round them again.
        shutil.copyfile(path, gguf_beside(folder))
    return target


def write_base(path: Path, folder: Path) -> None:
    """Write a GGUF file's values, config and tokenizer as a model directory.

    Raises:
        DataError: as for `base_of_gguf`.
    """
    header = read_gguf_header(path)
    try:
        config = config_of_gguf(path, header)
        tensors = {name: each for name, each in header.tensors.items() if not is_setting(name, config)}
        model = _without_values(config, len(tensors))
        # transformers draws its own progress bars here regardless.
        with contextlib.redirect_stderr(io.StringIO()):
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, trust_remote_code=False)
            tokenizer.save_pretrained(folder)
        model.config.architectures = [type(model).__name__]
        # Not a setting of the model but a trace of its origin: it would change the fingerprint for nothing.
        model.config.__dict__.pop("_model_name_or_path", None)
        model.config.save_pretrained(folder)
        _write_values(path, folder / "model.safetensors", model, tensors)
    except _DAMAGED as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise DataError(f"'{path}' is not a base that transformers understands: {reason}") from error


def _without_values(config: PretrainedConfig, tensors: int) -> PreTrainedModel:
    # A file may claim any number of blocks, and each is modules here.
    if not 0 < config.num_hidden_layers <= tensors:
        raise ValueError(f"it claims {config.num_hidden_layers} blocks and has {tensors} tensors")
    with torch.device("meta"):
        made = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, trust_remote_code=False)
    return cast("PreTrainedModel", made)


def _write_values(source: Path, target: Path, model: PreTrainedModel, tensors: Mapping[str, GgufTensor]) -> None:
    """Write the model's values from the file's, of which each has to be used and to have the right shape."""
    config = model.config
    kind = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == config.model_type)
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    found: dict[str, GgufTensor] = {}
    for name, parameter in model.named_parameters():
        stem, _, leaf = name.rpartition(".")
        theirs = f"{names.get_name(stem)}.{leaf}"
        tensor = tensors.get(theirs)
        if tensor is None or tensor.shape != tuple(parameter.shape):
            what = "lacks it" if tensor is None else f"has it as {tensor.shape}"
            raise ValueError(f"{name} is {tuple(parameter.shape)}, and the file {what} ({theirs})")
        found[name] = tensor
    if unused := sorted(tensors.keys() - {tensor.name for tensor in found.values()}):
        raise ValueError(f"it has {shown(unused[0])}, which transformers' {config.model_type} has no place for")
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in sorted(found):
        dtype, size = _type_of(found[name]), found[name].size
        header[name] = {
            "dtype": _NAMES[dtype],
            "shape": found[name].shape,
            "data_offsets": [offset, offset + size * dtype.itemsize],
        }
        offset += size * dtype.itemsize
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with target.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in sorted(found):
            for piece in _pieces(source, found[name], config):
                file.write(piece.contiguous().view(torch.uint8).numpy().data)


def _type_of(tensor: GgufTensor) -> torch.dtype:
    return _KEPT.get(tensor.kind.name, torch.bfloat16) if len(tensor.shape) > 1 else torch.bfloat16


def _pieces(path: Path, tensor: GgufTensor, config: PretrainedConfig) -> Iterator[torch.Tensor]:
    """Its values in order, flat, in the type they are written in."""
    held = tensor.rows(path)
    if heads := turned_heads(tensor.name, config.model_type):
        held = in_transformers_order(held, getattr(config, heads))
    dtype = _type_of(tensor)
    step = max(1, _PIECE // tensor.shape[-1])
    for first in range(0, len(held), step):
        values = gguf.dequantize(_seen_as(held[first : first + step], tensor.kind), tensor.kind)
        yield torch.from_numpy(np.ascontiguousarray(values, np.float32)).flatten().to(dtype)


def _seen_as(held: np.ndarray, kind: gguf.GGMLQuantizationType) -> np.ndarray:
    """Bytes of rows as `gguf.dequantize` wants them."""
    seen = {gguf.GGMLQuantizationType.F32: np.float32, gguf.GGMLQuantizationType.F16: np.float16}
    return held.view(seen[kind]) if kind in seen else held

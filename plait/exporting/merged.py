"""A whole model with the adapter merged into its weights, for any program that loads the base.

Plain LoRA is merged on disk, a few rows at a time: W + scale * B A in float32, rounded once to the base's data type, so
memory does not grow with the base. Anything beyond it goes through PEFT, with the whole base in memory.
"""

import json
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plait.adapters import AdapterState, Float32
from plait.adapters.fingerprint import StoredTensor, stored_tensors, weight_files
from plait.adapters.method import in_base
from plait.adapters.peft import AUTO_CLASS, HERE
from plait.aggregation.geometry import Geometry, Pair, geometry_of
from plait.data import Progress
from plait.errors import ConfigError
from plait.exporting.plain_lora import ONLY_PEFT, check_fit, export_weights, lora_fault
from plait.exporting.request import CardStyle, Command, ExportRequest, Writer, Written, export_card
from plait.exporting.source import Source, locate_weights
from plait.system.files import failures_to, write_atomically

_STYLE = CardStyle(library="transformers", relation="finetune", what="A base with an adapter merged into its weights.")
_OTHER_FILES = frozenset({".jinja", ".json", ".model", ".tiktoken", ".txt"})
_NUMPY_TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
# Rows of a weight at a time: 64 MB of float32 for the widest layers.
_BLOCK_ELEMENTS = 1 << 24


def prepare_merged(request: ExportRequest, progress: Progress) -> Writer:
    """A model directory of the base with the adapter merged into its weights."""
    source = request.source
    if request.rank is not None:
        raise ConfigError("a merged model has no rank: leave --rank out, or export --to peft --rank first")
    if why := ONLY_PEFT.get(source.peft_type):
        raise ConfigError(
            f"adapter '{source.name}' is made by {source.spec.method} and cannot be merged, because {why}: export "
            f"--to peft"
        )
    located = locate_weights(source, progress=progress)
    progress("reading the base's layers")
    weights = export_weights()
    shape = weights.describe_base(located.directory, source.spec.task, source.spec.labels)
    if shape.quantised:
        raise ConfigError(
            f"weights of base '{source.base.name}' are quantised, so a merge would round them again: "
            "pass the base that it was made from as --base, or export --to peft"
        )
    geometry = geometry_of(source.spec)
    in_place = lora_fault(source.spec) is None
    if in_place:
        check_fit(geometry, shape, base=source.base.name)
        in_place = _is_stored(geometry, located.directory)

    def write(folder: Path) -> Written:
        progress("merging in float32")
        if in_place:
            copy_model(located.directory, folder)
            merge_in_place(folder, geometry, source.state)
        else:
            weights.merge_with_peft(located.directory, source.spec, source.state, folder)
        card = export_card(source, _STYLE, language="python", usage=_usage(source, HERE))
        write_atomically(folder / "README.md", card.encode())
        return Written((Command("load it with transformers", _usage(source, str(request.directory))),))

    return write


def merge_in_place(folder: Path, geometry: Geometry, state: AdapterState) -> None:
    """Add every product of `state` to its module's weight; ConfigError if one is too large for its data type."""
    stored = stored_tensors(folder)
    for pair in geometry.pairs:
        weight = stored[f"{in_base(pair.module)}.weight"]
        with failures_to(f"write '{weight.path}'"):
            _add_product(weight, pair, state)


def copy_model(directory: Path, folder: Path) -> None:
    """Copy a model's weights, configuration and tokenizer, and no other files; MachineError if one cannot be."""
    others = [path.name for path in directory.iterdir() if path.is_file() and path.suffix in _OTHER_FILES]
    with failures_to(f"copy the base to '{folder.parent}'"):
        folder.mkdir(exist_ok=True)
        for name in {*(path.name for path in weight_files(directory)), *others}:
            shutil.copyfile(directory / name, folder / name)


def _add_product(weight: StoredTensor, pair: Pair, state: AdapterState) -> None:
    entry, b, a = weight.entry, pair.b_of(state.flat), pair.a_of(state.flat)
    scale = np.float32(pair.scale)
    row_bytes = (entry.end - entry.begin) // pair.d_out
    rows = max(1, _BLOCK_ELEMENTS // pair.d_in)
    with weight.path.open("r+b") as file:
        for first in range(0, pair.d_out, rows):
            block = b[first : first + rows]
            file.seek(entry.begin + first * row_bytes)
            stored = np.frombuffer(file.read(len(block) * row_bytes), _NUMPY_TYPES[entry.dtype])
            sums = _to_float32(stored, entry.dtype).reshape(len(block), pair.d_in)
            sums += scale * (block @ a)
            rounded = _from_float32(sums, entry.dtype)
            if not np.isfinite(_to_float32(rounded, entry.dtype)).all():
                raise ConfigError(
                    f"merged weight of '{in_base(pair.module)}' is too large for {entry.dtype}, the type of the base: "
                    "export --to peft"
                )
            file.seek(entry.begin + first * row_bytes)
            file.write(rounded.tobytes())


def _to_float32(stored: NDArray[np.generic], dtype: str) -> Float32:
    if dtype == "BF16":
        # bfloat16 is the upper half of a float32.
        return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return stored.astype(np.float32)


def _from_float32(values: Float32, dtype: str) -> NDArray[np.generic]:
    if dtype == "BF16":
        # To nearest, ties to even.
        bits = values.view(np.uint32)
        odd = (bits >> np.uint32(16)) & np.uint32(1)
        return ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype("<u2")
    with np.errstate(over="ignore"):
        return values.astype(_NUMPY_TYPES[dtype])


def _is_stored(geometry: Geometry, directory: Path) -> bool:
    """Whether every changed weight is in the base's files under its module's name, as a plain matrix of floats."""
    stored = stored_tensors(directory)
    found = [(stored.get(f"{in_base(pair.module)}.weight"), (pair.d_out, pair.d_in)) for pair in geometry.pairs]
    return all(each and each.entry.dtype in _NUMPY_TYPES and each.entry.shape == shape for each, shape in found)


def _usage(source: Source, directory: str) -> str:
    auto_class, place = AUTO_CLASS[source.spec.task], json.dumps(directory)
    return f"""from transformers import AutoTokenizer, {auto_class}
model = {auto_class}.from_pretrained({place})
tokenizer = AutoTokenizer.from_pretrained({place})"""

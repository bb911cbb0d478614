"""A LoRA adapter as one GGUF file for llama.cpp; for Ollama with a Modelfile beside it.

llama.cpp scales a product by alpha / rank, with the rank of each pair and one alpha for all; any other scaling is
multiplied into B. For some architectures its bases have the rows of queries and keys in another order (pairs of a
rotation side by side), and so has B. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import gguf
import numpy as np
from gguf import GGUFWriter, LlamaFileType, get_tensor_name_map
from numpy.typing import NDArray

from plait.adapters import BaseReference, Float32
from plait.adapters.method import in_base
from plait.adapters.peft import BASE_ELSEWHERE
from plait.aggregation.geometry import Geometry, Pair
from plait.data import Progress
from plait.errors import ConfigError
from plait.exporting.merged import copy_model
from plait.exporting.peft import at_rank
from plait.exporting.plain_lora import check_fit, plain_lora, shape_of_base
from plait.exporting.request import CardStyle, Command, ExportRequest, Writer, Written, export_card
from plait.exporting.source import Source, ascii_name, base_in_commands, locate_weights
from plait.system.files import failures_to, write_atomically

if TYPE_CHECKING:
    # At run time it would import torch, which most refusals need not wait for.
    from plait.training.export_weights import BaseShape

ADAPTER_FILE = "adapter.gguf"
_BASE_FILE = "BASE.gguf"

_STYLE = CardStyle(library="gguf", relation="adapter", what="A LoRA adapter in GGUF, for llama.cpp.")
_OLLAMA_STYLE = CardStyle("gguf", "adapter", "A LoRA adapter in GGUF with a Modelfile, for Ollama.")
_BASE_COPY = "./base"  # a base that neither Ollama nor the hub has
_MAX_NAME_CHARACTERS = 64
_TYPES = {"f32": (LlamaFileType.ALL_F32, np.float32), "f16": (LlamaFileType.MOSTLY_F16, np.float16)}


# How llama.cpp stores the bases of a model type, and of which it reorders the rows of queries and keys.
ARCHITECTURES: Mapping[str, gguf.MODEL_ARCH] = {
    "gemma": gguf.MODEL_ARCH.GEMMA,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
    "granite": gguf.MODEL_ARCH.GRANITE,
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "phi3": gguf.MODEL_ARCH.PHI3,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "smollm3": gguf.MODEL_ARCH.SMOLLM3,
}
_REORDERED = frozenset({"granite", "llama", "mistral", "smollm3"})


@dataclass(frozen=True)
class GgufAdapter:
    """An adapter that has been checked for GGUF, at the rank requested."""

    source: Source
    geometry: Geometry
    shape: "BaseShape"
    names: Mapping[str, str]


def prepare_gguf(request: ExportRequest, progress: Progress) -> Writer:
    """A GGUF file for llama.cpp."""
    adapter = fit_gguf(request, progress)

    def write(folder: Path) -> Written:
        write_gguf(folder / ADAPTER_FILE, adapter, request.gguf_type)
        source = adapter.source
        usage = f"{_conversion(source.base, BASE_ELSEWHERE)}\n{_usage(ADAPTER_FILE)}"
        card = export_card(source, _STYLE, language="sh", usage=usage)
        write_atomically(folder / "README.md", card.encode())
        make = f"make {_BASE_FILE} with the script in llama.cpp's source"
        commands = (
            Command(make, _conversion(source.base, base_in_commands(source.base))),
            Command("run it with llama.cpp", _usage(str(request.directory / ADAPTER_FILE))),
        )
        return Written(commands, rank=source.spec.rank, lost=source.lost)

    return write


def prepare_ollama(request: ExportRequest, progress: Progress) -> Writer:
    """A GGUF file with a Modelfile, for a base that Ollama finds."""
    base = _from(request)
    adapter = fit_gguf(request, progress)

    def write(folder: Path) -> Written:
        source = adapter.source
        if base == _BASE_COPY:
            copy_model(locate_weights(source, progress=progress).directory, folder / _BASE_COPY)
        write_gguf(folder / ADAPTER_FILE, adapter, request.gguf_type)
        quoted = f'"{base}"' if " " in base else base
        write_atomically(folder / "Modelfile", f"FROM {quoted}\nADAPTER ./{ADAPTER_FILE}\n".encode())
        usage = _ollama_usage(source, "Modelfile")
        card = export_card(source, _OLLAMA_STYLE, language="sh", usage=usage)
        write_atomically(folder / "README.md", card.encode())
        command = Command("run it with Ollama", _ollama_usage(source, str(request.directory / "Modelfile")))
        return Written((command,), rank=source.spec.rank, lost=source.lost)

    return write


def _from(request: ExportRequest) -> str:
    """The value of FROM: a name in Ollama, or a path from the Modelfile to the base."""
    base = request.source.base
    name = request.served_base or base.origin.ollama or (_BASE_COPY if base.built_in else base.name)
    if not request.served_base and name == base.name:
        # Ollama downloads no base from the hub by its plain name; a path is relative to the Modelfile.
        if not Path(name).is_dir():
            raise ConfigError(
                f"base '{name}' is not a directory on this machine, and Ollama does not know it by that name: "
                "pass its name in Ollama (llama3.2:1b) or a GGUF file as --served-base"
            )
        name = os.path.relpath(name, request.directory)
        name = name if name.startswith("..") else f"./{name}"
    if "\n" in name or '"' in name:
        raise ConfigError(f"base {name!r} has a quote or a line break in its name, which a Modelfile cannot contain")
    return name


def _ollama_usage(source: Source, modelfile: str) -> str:
    name = ascii_name(source.name).lower()
    return f"ollama create {name} --file {shlex.quote(modelfile)} && ollama run {name}"


def fit_gguf(request: ExportRequest, progress: Progress) -> GgufAdapter:
    """Make every check that can refuse a GGUF adapter."""
    instead = "export --to merged, and convert that with llama.cpp's convert_hf_to_gguf.py"
    plain_lora(request.source, use="llama.cpp", instead=instead)
    source = at_rank(request)
    geometry = plain_lora(source, use="llama.cpp", instead=instead)
    base, shape = source.base, shape_of_base(source, progress)
    if shape.model_type not in ARCHITECTURES:
        raise ConfigError(
            f"base '{base.name}' is of type '{shape.model_type}', expected one of {', '.join(ARCHITECTURES)} "
            f"for a GGUF adapter: {instead}"
        )
    check_fit(geometry, shape, base=base.name)
    return GgufAdapter(source, geometry, shape, _names(source, geometry, shape, instead))


def write_gguf(path: Path, adapter: GgufAdapter, kind: str) -> None:
    """Write the adapter; ConfigError if a value is too large for the data type."""
    source, alpha = adapter.source, adapter.source.spec.alpha or 1.0
    with failures_to(f"write '{path}'"):
        writer = GGUFWriter(path, gguf.MODEL_ARCH_NAMES[ARCHITECTURES[adapter.shape.model_type]])
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_name(source.name)
        writer.add_file_type(_TYPES[kind][0])
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
        for pair in adapter.geometry.pairs:
            name = adapter.names[pair.module]
            factors = {"lora_a": pair.a_of(source.state.flat), "lora_b": _b_of(pair, adapter, alpha)}
            for side, factor in factors.items():
                writer.add_tensor(f"{name}.{side}", _as_type(factor, kind, pair))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _b_of(pair: Pair, adapter: GgufAdapter, alpha: float) -> Float32:
    b = pair.b_of(adapter.source.state.flat)
    factor = pair.scale * pair.rank / alpha
    if factor != 1.0:
        b = (b.astype(np.float64) * factor).astype(np.float32)
    module, shape = pair.module.rpartition(".")[2], adapter.shape
    heads = {"q_proj": shape.heads, "k_proj": shape.kv_heads}.get(module) if shape.model_type in _REORDERED else None
    if heads is None:
        return b
    # Rows of each head from (first halves, second halves) to pairs of one of each.
    rows, rank = b.shape
    return b.reshape(heads, 2, rows // heads // 2, rank).swapaxes(1, 2).reshape(rows, rank)


def _as_type(factor: Float32, kind: str, pair: Pair) -> NDArray[np.floating]:
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(factor, _TYPES[kind][1])
    if not np.isfinite(values).all():
        raise ConfigError(f"a factor of '{in_base(pair.module)}' is too large for {kind}; give --gguf-type f32")
    return values


def _names(source: Source, geometry: Geometry, shape: "BaseShape", instead: str) -> dict[str, str]:
    names = get_tensor_name_map(ARCHITECTURES[shape.model_type], shape.layers)
    found: dict[str, str] = {}
    for pair in geometry.pairs:
        stem = names.get_name(in_base(pair.module))
        if stem is None:
            raise ConfigError(
                f"adapter '{source.name}' changes '{in_base(pair.module)}', for which llama.cpp has no tensor: "
                f"{instead}"
            )
        found[pair.module] = f"{stem}.weight"
        if len(found[pair.module]) + len(".lora_a") >= _MAX_NAME_CHARACTERS:
            raise ConfigError(f"llama.cpp's name '{found[pair.module]}' is too long for GGUF: {instead}")
    return found


def _usage(path: str) -> str:
    return f"llama-cli --model {_BASE_FILE} --lora {shlex.quote(path)}"


def _conversion(base: BaseReference, directory: str) -> str:
    """Command that converts the base to GGUF; the script is in llama.cpp's source."""
    revision = f" --revision {shlex.quote(base.revision)}" if base.revision else ""
    fetch = f"hf download {shlex.quote(base.hub_id)}{revision} --local-dir base && " if base.hub_id else ""
    place = "base" if base.hub_id else shlex.quote(directory)
    return f"{fetch}python convert_hf_to_gguf.py {place} --outfile {_BASE_FILE}"

"""A Modelfile for Ollama together with the adapter in GGUF.

Ollama makes the base from a directory of safetensors, a GGUF file or one of its own models (``FROM``) and adds the
adapter (``ADAPTER``). It cannot download a base from the hub by its plain name. A path in a Modelfile is relative to
it.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from plait.errors import ConfigError
from plait.exporting.card import CardStyle, export_card
from plait.exporting.peft import rank_notes
from plait.exporting.request import Command, ExportRequest, Writer, Written
from plait.exporting.source import Source, ascii_name, locate_weights
from plait.features.exports.gguf_adapter import ADAPTER_FILE, fit_gguf, write_gguf
from plait.features.exports.merged import copy_model
from plait.files import write_atomically
from plait.training.bases import Progress

# Placeholder for a base that neither Ollama nor the hub has.
_BASE_COPY = "./base"
_STYLE = CardStyle(library="gguf", relation="adapter", what="A LoRA adapter in GGUF with a Modelfile, for Ollama.")


def prepare_ollama(request: ExportRequest, progress: Progress) -> Writer:
    """Check that Ollama supports the adapter and finds its base.

    Raises:
        ConfigError: as for GGUF; or Ollama cannot find the base.
        BaseMismatchError: the adapter does not fit the base.
    """
    base = _base(request)
    adapter = fit_gguf(request, progress)

    def write(folder: Path) -> Written:
        source = adapter.fitted.source
        if base == _BASE_COPY:
            copy_model(locate_weights(source, progress=progress).directory, folder / _BASE_COPY)
        write_gguf(folder / ADAPTER_FILE, adapter, request.gguf_float)
        write_atomically(folder / "Modelfile", f"FROM {_quoted(base)}\nADAPTER ./{ADAPTER_FILE}\n".encode())
        usage = _usage(source, "Modelfile")
        card = export_card(source, _STYLE, language="sh", usage=usage, notes=rank_notes(adapter.fitted))
        write_atomically(folder / "README.md", card.encode())
        command = Command("run it with Ollama", _usage(source, str(request.directory / "Modelfile")))
        return Written((command,), rank=source.spec.rank, lost=adapter.fitted.lost)

    return write


def _base(request: ExportRequest) -> str:
    """The value of FROM: a name in Ollama, or a path from the Modelfile to the base."""
    base = request.source.base
    name = request.served_base or base.origin.ollama or (_BASE_COPY if base.built_in else base.name)
    if not request.served_base and name == base.name:
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


def _quoted(name: str) -> str:
    return f'"{name}"' if " " in name else name


def _usage(source: Source, modelfile: str) -> str:
    name = ascii_name(source.name).lower()
    return f"ollama create {name} --file {shlex.quote(modelfile)} && ollama run {name}"

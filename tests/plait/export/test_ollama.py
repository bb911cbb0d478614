from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from plait.adapters import BaseReference
from plait.errors import ConfigError
from plait.export import ExportRequest, export, open_source
from plait.training.bases import LocatedBase


def test_the_modelfile_puts_the_adapter_beside_it_on_the_base(
    by_plait: Callable[..., Path], tiny: LocatedBase, tmp_path: Path
) -> None:
    exported = export("ollama", ExportRequest(open_source(by_plait()), tmp_path / "out"))
    assert (tmp_path / "out" / "Modelfile").read_text() == f"FROM {tiny.directory}\nADAPTER ./adapter.gguf\n"
    assert (tmp_path / "out" / "adapter.gguf").read_bytes()[:4] == b"GGUF"
    assert exported.written.commands[0].text.startswith("ollama create by-plait --file ")


def test_a_name_in_ollama_takes_the_place_of_the_directory(by_plait: Callable[..., Path], tmp_path: Path) -> None:
    export("ollama", ExportRequest(open_source(by_plait()), tmp_path / "out", served_base="llama3.2:1b"))
    assert (tmp_path / "out" / "Modelfile").read_text().startswith("FROM llama3.2:1b\n")


def test_a_directory_with_a_space_is_quoted(by_peft: Callable[..., Path], tiny: LocatedBase, tmp_path: Path) -> None:
    base = tmp_path / "my base"
    shutil.copytree(tiny.directory, base)
    export("ollama", ExportRequest(open_source(by_peft(base=base)), tmp_path / "out"))
    assert (tmp_path / "out" / "Modelfile").read_text().startswith(f'FROM "{base}"\n')


def test_a_hub_name_is_refused_as_ollama_cannot_fetch_it(by_plait: Callable[..., Path], tmp_path: Path) -> None:
    source = open_source(by_plait())
    elsewhere = replace(source, base=BaseReference("owner/model", None, source.base.fingerprint))
    with pytest.raises(ConfigError, match="Ollama does not fetch it by that name: give --served-base"):
        export("ollama", ExportRequest(elsewhere, tmp_path / "out"))


def test_a_name_that_would_break_out_of_its_line_is_refused(by_plait: Callable[..., Path], tmp_path: Path) -> None:
    request = ExportRequest(open_source(by_plait()), tmp_path / "out", served_base='x\nRUN "y"')
    with pytest.raises(ConfigError, match="which a Modelfile cannot hold"):
        export("ollama", request)

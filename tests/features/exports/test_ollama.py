from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from plait.adapters import BaseReference
from plait.errors import ConfigError
from plait.exporting.request import ExportRequest
from plait.exporting.source import open_source
from plait.features.exports.targets import export
from plait.training.bases import LocatedBase, locate_base


@pytest.mark.slow
def test_the_modelfile_puts_the_adapter_beside_it_on_the_base(
    by_plait: Callable[..., Path], tiny: LocatedBase, tmp_path: Path
) -> None:
    exported = export("ollama", ExportRequest(open_source(by_plait()), tmp_path / "out"))
    assert (tmp_path / "out" / "Modelfile").read_text() == "FROM ./base\nADAPTER ./adapter.gguf\n"
    assert locate_base(str(tmp_path / "out" / "base")).reference.fingerprint == tiny.reference.fingerprint
    assert (tmp_path / "out" / "adapter.gguf").read_bytes()[:4] == b"GGUF"
    assert exported.written.commands[0].text.startswith("ollama create by-plait --file ")


@pytest.mark.slow
def test_a_name_in_ollama_takes_the_place_of_the_directory(by_plait: Callable[..., Path], tmp_path: Path) -> None:
    export("ollama", ExportRequest(open_source(by_plait()), tmp_path / "out", served_base="llama3.2:1b"))
    assert (tmp_path / "out" / "Modelfile").read_text().startswith("FROM llama3.2:1b\n")


@pytest.mark.slow
def test_a_directory_is_named_from_the_modelfile_and_quoted_where_it_has_a_space(
    by_peft: Callable[..., Path], tiny: LocatedBase, tmp_path: Path
) -> None:
    base = tmp_path / "my base"
    shutil.copytree(tiny.directory, base)
    export("ollama", ExportRequest(open_source(by_peft(base=base)), tmp_path / "out"))
    assert (tmp_path / "out" / "Modelfile").read_text().startswith('FROM "../my base"\n')


def test_a_hub_name_is_refused_as_ollama_cannot_fetch_it(by_plait: Callable[..., Path], tmp_path: Path) -> None:
    source = open_source(by_plait())
    elsewhere = replace(source, base=BaseReference("owner/model", None, source.base.fingerprint))
    with pytest.raises(ConfigError, match="Ollama does not know it by that name: pass its name in Ollama"):
        export("ollama", ExportRequest(elsewhere, tmp_path / "out"))


@pytest.mark.slow
def test_a_name_that_would_break_out_of_its_line_is_refused(by_plait: Callable[..., Path], tmp_path: Path) -> None:
    request = ExportRequest(open_source(by_plait()), tmp_path / "out", served_base='x\nRUN "y"')
    with pytest.raises(ConfigError, match="which a Modelfile cannot contain"):
        export("ollama", request)


@pytest.mark.slow
def test_names_in_other_scripts_become_names_that_ollama_takes_and_stay_apart(
    by_plait: Callable[..., Path], tmp_path: Path
) -> None:
    made = open_source(by_plait())
    commands = [
        export("ollama", ExportRequest(replace(made, name=name), tmp_path / f"out-{number}", served_base="x"))
        .written.commands[0]
        .text
        for number, name in enumerate(("run-Zoë", "run-Zoe", "run-李雷", "run-韩梅梅"))
    ]
    names = [command.split()[2] for command in commands]
    assert all(re.fullmatch(r"[a-z0-9._-]+", name) for name in names)
    assert names[1] == "run-zoe"
    assert len(set(names)) == 4

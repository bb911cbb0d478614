from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from plait.adapters import Task, save_peft_directory
from plait.aggregation import Subject
from plait.errors import ConfigError, MachineError
from plait.export import TARGETS, ExportRequest, check_target, export, open_source
from plait.training.bases import LocatedBase
from plait.training.blueprint import design, read_base_config
from plait.training.methods import METHODS, AdapterRequest
from plait.training.prompts import servable


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_every_target_writes_a_card_and_a_command_that_names_the_place(
    by_plait: Callable[..., Path], tmp_path: Path, target: str
) -> None:
    exported = export(target, ExportRequest(open_source(by_plait()), tmp_path / "deep" / "out"))
    assert "README.md" in exported.files
    assert exported.files == {path.name: path.stat().st_size for path in (tmp_path / "deep" / "out").iterdir()}
    assert all(str(tmp_path / "deep" / "out") in command.text for command in exported.written.commands)


def test_a_target_that_is_misspelt_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--to is 'merge', expected one of .*'merged'"):
        check_target("merge", tmp_path / "out")


def test_a_directory_with_something_in_it_is_left_alone(by_plait: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(ConfigError, match="is not empty"):
        export("peft", ExportRequest(open_source(by_plait()), tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(ConfigError, match="is a file, expected a new or an empty directory"):
        check_target("peft", tmp_path / "out")


def test_a_place_that_cannot_be_made_is_the_machines_fault(by_plait: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(MachineError, match="cannot"):
        export("peft", ExportRequest(open_source(by_plait()), tmp_path / "file" / "below" / "out"))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_goes_where_it_can_and_is_told_where_else_it_goes(
    method: str, tiny: LocatedBase, tmp_path: Path
) -> None:
    """What a refusal names as the nearest is not refused in turn."""
    config = read_base_config(tiny.directory, Task.CAUSAL_LM)
    request = AdapterRequest(method=method, rank=2, virtual_tokens=2)
    made = design(config, request, task=Task.CAUSAL_LM, seed=0, weights=tiny.directory)
    spec, state = servable(made.spec, made.initial)
    save_peft_directory(tmp_path / "adapter", spec=spec, state=state, base=tiny.reference, card="")
    source = open_source(tmp_path / "adapter")
    nearest: set[str] = set()
    for target, prepare in TARGETS.items():
        try:
            prepare(ExportRequest(source, tmp_path / target), lambda _: None)
        except ConfigError as refusal:
            nearest.update(re.findall(r"--to (\w+)", str(refusal)))
    if METHODS[method].subject is Subject.FACTORS and method != "dora":
        assert not nearest
    else:
        assert nearest <= {"merged", "peft"}
    for target in nearest:
        TARGETS[target](ExportRequest(source, tmp_path / target), lambda _: None)

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from plait.errors import ConfigError, MachineError
from plait.export import TARGETS, ExportRequest, check_target, export, open_source


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

from __future__ import annotations

from pathlib import Path

import pytest

from plait.data import Record, RecordKind, as_dataset
from plait.data.stdlib import read_tree
from plait.errors import MachineError

LONG = "# a comment that fills two hundred bytes\n" * 6


def test_the_standard_library_has_a_client_for_each_package(tmp_path: Path) -> None:
    dataset = as_dataset("stdlib", cache=tmp_path, progress=print)
    assert dataset.kind is RecordKind.TEXT
    assert dataset.natural_column == "package"
    packages = dataset.column("package")
    assert {"asyncio", "json", "email", "ast"} < set(packages)
    assert len(set(packages)) > 100
    assert not {"test", "site-packages", "sitecustomize"} & set(packages)
    paths = dataset.column("path")
    assert "json/decoder.py" in paths
    assert len(set(paths)) == len(paths)


def test_only_source_worth_learning_from_is_read_in_path_order(tmp_path: Path) -> None:
    kept = ("b/__init__.py", "b/deep/x.py", "a.py")
    left_out = ("b/tests/x.py", "b/idle_test/x.py", "b/__pycache__/x.py", "site-packages/y.py", "c.py", "b/notes.txt")
    for name in kept + left_out:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(LONG + f"# {name}\n")
    (tmp_path / "b" / "short.py").write_text("x = 1\n")
    (tmp_path / "b" / "latin.py").write_bytes(LONG.encode() + b"# caf\xe9\n")
    assert read_tree(tmp_path, packages=frozenset({"a", "b"})) == [
        Record(text=LONG + f"# {name}\n", columns={"package": name[0], "path": name})
        for name in ("a.py", "b/__init__.py", "b/deep/x.py")
    ]


def test_a_python_without_source_is_said_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(MachineError, match="no source of the standard library"):
        as_dataset("stdlib", cache=tmp_path, progress=print)

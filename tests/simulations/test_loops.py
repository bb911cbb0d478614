"""The loops' scripts: the edits fit the loops of the field as they stand, and what they make is a program."""

import importlib.util
import json
import shutil
import sys
from difflib import ndiff
from pathlib import Path
from types import ModuleType

import pytest

LOOPS = Path(__file__).parents[2] / "simulations" / "loops"


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(LOOPS), *sys.path])
    # The scripts bear the names of libraries, and the field's module is called `run`.
    for borrowed in ("loops", "run", "works"):
        monkeypatch.delitem(sys.modules, borrowed, raising=False)
    spec = importlib.util.spec_from_file_location(f"loop_of_{name}", LOOPS / f"{name}.py")
    made = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, made)
    spec.loader.exec_module(made)
    return made


@pytest.mark.parametrize(("loop", "at_most"), [("peft", 8), ("nvflare", 6)])
def test_the_edits_fit_the_fields_loop_and_are_few(loop, at_most, tmp_path, monkeypatch):
    found = script(loop, monkeypatch)
    folder = tmp_path / loop
    shutil.copytree(LOOPS.parent / "field" / loop, folder)
    assert sys.modules["loops"].edited(folder, found.EDITS) <= at_most
    for name in found.EDITS:
        compile((folder / name).read_text(), name, "exec")


def test_flowers_examples_change_by_at_most_five_lines(monkeypatch):
    found = script("flower", monkeypatch)
    for example in (found.FLOWERTUNE, found.QUICKSTART):
        pairs = [(old.splitlines(), new.splitlines()) for each in example.edits.values() for old, new in each]
        added = [line for old, new in pairs for line in ndiff(old, new) if line.startswith("+ ")]
        assert len(added) <= 5


def test_kept_rows_have_what_a_reader_compares():
    files = sorted(LOOPS.glob("results-*.jsonl"))
    for row in (json.loads(line) for file in files for line in file.read_text().splitlines()):
        assert {"bytes", "bytes_unchanged", "loss", "loss_unchanged", "lines_changed"} <= row.keys()

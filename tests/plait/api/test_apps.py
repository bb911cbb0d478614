from __future__ import annotations

import sys
from pathlib import Path

import pytest

import plait
from plait.api.apps import add_apps_to_path


def test_the_apps_are_found_before_other_folders_of_the_same_names(monkeypatch: pytest.MonkeyPatch) -> None:
    root = str(Path(plait.__file__).parents[1])
    monkeypatch.setattr(sys, "path", ["elsewhere", root, "further"])
    add_apps_to_path()
    assert sys.path == [root, "elsewhere", "further"]

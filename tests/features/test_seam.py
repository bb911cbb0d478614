"""The core names no feature; the features are those of the folders."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path

import pytest

from plait.feature import Feature
from plait.known_features import own_features
from plait.places import at
from plait.rounds.events import Event

ROOT = Path(__file__).resolve().parents[2]
FEATURES = own_features()


def core_files() -> list[Path]:
    folders = (ROOT / "plait", ROOT / "server", ROOT / "client")
    files = [file for folder in folders for file in folder.rglob("*.py")]
    return [file for file in files if ROOT / "plait/features" not in file.parents]


def code_of(file: Path) -> str:
    """A file without what only type checkers read."""
    text = file.read_text()
    if "TYPE_CHECKING" not in text:
        return text
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            lines[node.lineno - 1 : node.end_lineno] = [""] * ((node.end_lineno or node.lineno) - node.lineno + 1)
    return "\n".join(lines)


def places_of(feature: Feature) -> list[str]:
    """All places that a declaration names."""
    said = (getattr(feature, each.name) for each in fields(feature))
    listed = (
        value.values() if isinstance(value, Mapping) else [value] if isinstance(value, str) else value for value in said
    )
    several = [each for values in listed if isinstance(values, Iterable) for each in values]
    several += [part for each in several if isinstance(each, tuple) for part in each]
    return [each for each in several if isinstance(each, str) and re.fullmatch(r"plait\.[\w.]+:\w+", each)]


def test_every_folder_is_a_feature_of_its_name_and_lies_with_its_tests() -> None:
    folders = {file.parent.name for file in (ROOT / "plait/features").glob("*/__init__.py")}
    assert folders == set(FEATURES)
    for name, feature in FEATURES.items():
        assert feature.name == name
        assert (ROOT / "tests/features" / name).is_dir(), name


def test_no_file_of_the_core_names_a_feature() -> None:
    settings = {name for feature in FEATURES.values() for name in feature.fields}
    for file in core_files():
        assert FEATURES.keys().isdisjoint(re.findall(r"\bfeatures[./](\w+)", code := code_of(file))), file
        assert settings.isdisjoint(re.findall(r"\.(\w+)", code)), file


@pytest.mark.parametrize("feature", FEATURES.values(), ids=lambda feature: feature.name)
def test_all_that_a_feature_declares_is_there(feature: Feature) -> None:
    for place in places_of(feature):
        assert at(place), place
    for name, place in feature.names.items():
        assert at(place).__name__ == name
    for kind, place in feature.events.items():
        assert issubclass(at(place), Event)
        assert at(place).event == kind

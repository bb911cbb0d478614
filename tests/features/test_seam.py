"""The core names no feature; the features are those of the folders."""

from __future__ import annotations

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


@pytest.mark.parametrize("feature", FEATURES.values(), ids=lambda feature: feature.name)
def test_all_that_a_feature_declares_is_there(feature: Feature) -> None:
    for place in places_of(feature):
        assert at(place), place
    for name, place in feature.names.items():
        assert at(place).__name__ == name
    for kind, place in feature.events.items():
        assert issubclass(at(place), Event)
        assert at(place).event == kind

import hashlib
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.adapters import Layout

SHAPES = st.dictionaries(st.text(max_size=8), st.lists(st.integers(0, 5), max_size=3), max_size=6)


@pytest.mark.slow
@settings(max_examples=50)
@given(SHAPES)
def test_slots_are_packed_in_name_order_without_gaps(shapes: dict[str, list[int]]) -> None:
    layout = Layout.of(shapes)
    assert [slot.name for slot in layout.slots] == sorted(shapes)
    at = 0
    for slot in layout.slots:
        assert slot.offset == at
        assert slot.shape == tuple(shapes[slot.name])
        at += math.prod(shapes[slot.name])
    assert layout.size == at


@pytest.mark.slow
@settings(max_examples=50)
@given(SHAPES, st.randoms())
def test_the_order_of_the_mapping_does_not_change_layout_or_digest(shapes: dict[str, list[int]], random) -> None:
    names = list(shapes)
    random.shuffle(names)
    shuffled = Layout.of({name: shapes[name] for name in names})
    assert shuffled == Layout.of(shapes)
    assert shuffled.digest == Layout.of(shapes).digest


@pytest.mark.parametrize(
    "other",
    [{"a": [3, 2], "b": [4]}, {"a": [2, 3], "c": [4]}, {"a": [2, 3]}, {"a": [6], "b": [4]}],
    ids=["transposed", "renamed", "missing", "flattened"],
)
def test_another_name_or_shape_gives_another_digest(other: dict[str, list[int]]) -> None:
    assert Layout.of(other).digest != Layout.of({"a": [2, 3], "b": [4]}).digest


def test_the_digest_is_sha256_of_names_and_shapes_as_json() -> None:
    assert Layout.of({"b": [4], "a": (2, 3)}).digest == hashlib.sha256(b'[["a",[2,3]],["b",[4]]]').digest()


def test_a_slot_is_found_by_its_name() -> None:
    layout = Layout.of({"b": [4], "a": [2, 3]})
    assert layout.by_name["b"].offset == 6
    assert layout.by_name["b"].size == 4

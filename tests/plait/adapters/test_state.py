"""Values of an adapter and their layout."""

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from plait.adapters import AdapterState, Layout, add, norm, subtract
from plait.errors import PeerError

SHAPES = st.dictionaries(st.text(max_size=8), st.lists(st.integers(0, 5), max_size=3), max_size=6)


@pytest.mark.slow
@settings(max_examples=50)
@given(SHAPES)
def test_slots_are_packed_in_name_order_without_gaps(shapes):
    layout = Layout.of(shapes)
    assert [slot.name for slot in layout.slots] == sorted(shapes)
    at = 0
    for slot in layout.slots:
        assert slot.offset == at
        assert slot.shape == tuple(shapes[slot.name])
        at += math.prod(shapes[slot.name])
    assert layout.size == at


def test_the_digest_is_sha256_of_names_and_shapes_as_json():
    assert Layout.of({"b": [4], "a": (2, 3)}).digest == hashlib.sha256(b'[["a",[2,3]],["b",[4]]]').digest()


LAYOUT = Layout.of({"b": [3], "a": [2, 2]})
TENSORS = {"a": np.array([[1, 2], [3, 4]], np.float32), "b": np.array([5, 6, 7], np.float32)}

# Whole numbers, whose sums and differences float32 holds exactly.
FLATS = npst.arrays(np.float32, LAYOUT.size, elements=st.integers(-1000, 1000).map(float))


def with_tensor(name: str, tensor: np.ndarray) -> dict[str, np.ndarray]:
    return {**TENSORS, name: tensor}


def test_tensors_come_back_as_they_went_in():
    state = AdapterState.from_tensors(LAYOUT, TENSORS)
    assert state.flat.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert {name: tensor.tolist() for name, tensor in state.items()} == {n: t.tolist() for n, t in TENSORS.items()}


def test_a_transposed_view_is_packed_by_its_indices_not_its_memory():
    state = AdapterState.from_tensors(LAYOUT, with_tensor("a", TENSORS["a"].T))
    assert state["a"].tolist() == [[1, 3], [2, 4]]


def test_the_values_cannot_be_written_through_the_state():
    state = AdapterState.from_tensors(LAYOUT, TENSORS)
    with pytest.raises(ValueError, match="read-only"):
        state.flat[0] = 9
    with pytest.raises(ValueError, match="read-only"):
        state["a"][0, 0] = 9


@pytest.mark.parametrize("flat", [np.zeros(7, np.float64), np.zeros(6, np.float32), np.zeros((7, 1), np.float32)])
def test_a_buffer_of_another_kind_is_refused(flat):
    with pytest.raises(ValueError, match="flat buffer is"):
        AdapterState(LAYOUT, flat)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a": TENSORS["a"]}, "'b' is missing"),
        (with_tensor("evil\n", TENSORS["b"]), r"'evil\\n' is not part"),
        (with_tensor("a", np.zeros((2, 3), np.float32)), r"shape of 'a' is \(2, 3\), expected \(2, 2\)"),
        (with_tensor("a", np.zeros(4, np.float32)), r"shape of 'a' is \(4,\)"),
        (with_tensor("b", np.zeros(1, np.float32)), r"shape of 'b' is \(1,\)"),
        (with_tensor("b", np.zeros(3, np.int64)), "dtype of 'b' is int64"),
        (with_tensor("b", np.array([0, np.nan, 0], np.float32)), "'b' holds NaN"),
        (with_tensor("a", np.full((2, 2), -np.inf, np.float32)), "'a' holds NaN or infinity"),
        (with_tensor("b", np.full(3, 1e300)), "'b' holds NaN or infinity"),
    ],
    ids=["missing", "unexpected", "shape", "flattened", "broadcastable", "integer", "nan", "infinity", "overflow"],
)
def test_tensors_that_do_not_fit_are_refused_by_name(tensors, message):
    with pytest.raises(PeerError, match=message):
        AdapterState.from_tensors(LAYOUT, tensors)


@settings(max_examples=30)
@given(FLATS, FLATS)
def test_adding_what_subtraction_gave_restores_the_first(left, right):
    before, after = AdapterState(LAYOUT, left), AdapterState(LAYOUT, right)
    delta = subtract(after, before)
    assert delta.flat.tolist() == (right.astype(np.float64) - left).tolist()
    assert add(before, delta).flat.tolist() == right.tolist()


def test_states_of_different_layouts_do_not_mix():
    other = AdapterState.zeros(Layout.of({"c": [7]}))
    for operation in (add, subtract):
        with pytest.raises(ValueError, match="different layouts"):
            operation(AdapterState.zeros(LAYOUT), other)


def test_norm_is_accumulated_in_float64():
    # 1e20 squared is beyond float32.
    flat = np.full(LAYOUT.size, 1e20, np.float32)
    expected = math.sqrt(sum(float(x) ** 2 for x in flat))
    assert norm(AdapterState(LAYOUT, flat)) == pytest.approx(expected, rel=1e-12)


def test_the_digest_covers_layout_and_values():
    state = AdapterState.from_tensors(LAYOUT, TENSORS)
    values = np.array([1, 2, 3, 4, 5, 6, 7], "<f4").tobytes()
    assert state.digest() == hashlib.sha256(LAYOUT.digest + values).digest()

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.adapters.strict_json import MAX_DEPTH, parse_object, shown
from plait.errors import PeerError

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
OBJECTS = st.dictionaries(
    st.text(), st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
)


def parse(data: bytes) -> object:
    return parse_object(data, what="thing", max_bytes=100_000)


@pytest.mark.slow
@settings(max_examples=50)
@given(OBJECTS)
def test_sound_objects_are_read_as_json_reads_them(value: dict) -> None:
    assert parse(json.dumps(value).encode()) == value


@settings(max_examples=200)
@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,0-9eE.tfnul\\ ', max_size=60).map(str.encode))
def test_any_bytes_give_an_object_or_a_peer_error(data: bytes) -> None:
    with contextlib.suppress(PeerError):
        assert isinstance(parse(data), dict)


def nested(depth: int) -> bytes:
    return b'{"a":' * (depth - 1) + b"{}" + b"}" * (depth - 1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not JSON"),
        (b"[]", "expected a JSON object"),
        (b'{"a":1}{', "not JSON"),
        (b'{"a":1,"a":1}', "'a' twice"),
        (b'{"x":{"a":1,"a":1}}', "'a' twice"),
        (b'{"a":NaN}', "holds NaN"),
        (b'{"a":[-Infinity]}', "holds -Infinity"),
        (b'{"a":"\xff"}', "not UTF-8 at byte 6"),
        ('{"a":1}'.encode("utf-16"), "not UTF-8"),
        (b'{"a":"\x00"}', "not JSON"),
        (b'{"a":' + b"9" * 5000 + b"}", "not JSON"),
        (nested(MAX_DEPTH + 1), "nested too deep"),
        (b"[" * 90_000, "nested too deep"),
        (b" " * 100_001, "has 100001 bytes, expected at most 100000"),
    ],
)
def test_anything_else_is_refused_saying_why(data: bytes, message: str) -> None:
    with pytest.raises(PeerError, match=f"thing .*{message}|thing gives key {message}"):
        parse(data)


def test_the_deepest_allowed_object_is_read() -> None:
    assert parse(nested(MAX_DEPTH))


def test_shown_is_short_and_free_of_control_characters() -> None:
    text = shown("\x1b[31m\r\n" + "x" * 1_000_000)
    assert text.isprintable()
    assert len(text) <= 80

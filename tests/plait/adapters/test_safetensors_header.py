import io
import json

import pytest

from plait.adapters.safetensors_header import MAX_HEADER_BYTES, TensorEntry, read_header
from plait.errors import PeerError


def file_of(header: object, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_entries_hold_positions_in_the_file_and_permuted_offsets_are_sound() -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "first": {"dtype": "I64", "shape": [2], "data_offsets": [6, 22]},
        "second": {"dtype": "U8", "shape": [3, 2], "data_offsets": [0, 6]},
        "empty": {"dtype": "F32", "shape": [0, 4], "data_offsets": [6, 6]},
        "scalar": {"dtype": "F16", "shape": [], "data_offsets": [22, 24]},
    }
    file = file_of(header, bytes(24))
    begin = len(file) - 24
    read = read_header(io.BytesIO(file), size=len(file))
    assert read.metadata == {"format": "pt"}
    assert read.tensors == {
        "first": TensorEntry("I64", (2,), begin + 6, begin + 22),
        "second": TensorEntry("U8", (3, 2), begin, begin + 6),
        "empty": TensorEntry("F32", (0, 4), begin + 6, begin + 6),
        "scalar": TensorEntry("F16", (), begin + 22, begin + 24),
    }
    assert {name: entry.size for name, entry in read.tensors.items()} == {
        "first": 2,
        "second": 6,
        "empty": 0,
        "scalar": 1,
    }


def test_four_bit_tensors_take_half_a_byte_an_element() -> None:
    file = file_of({"x": {"dtype": "F4", "shape": [6], "data_offsets": [0, 3]}}, bytes(3))
    assert read_header(io.BytesIO(file), size=len(file)).tensors["x"].size == 6


def test_a_long_header_is_refused_before_it_is_read() -> None:
    stream = io.BytesIO((MAX_HEADER_BYTES + 1).to_bytes(8, "little"))
    with pytest.raises(PeerError, match=f"expected at most {MAX_HEADER_BYTES}"):
        read_header(stream, size=1 << 40)
    assert stream.tell() == 8


def test_a_file_that_shrinks_while_it_is_read_is_refused() -> None:
    file = file_of({"x": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, bytes(1))
    with pytest.raises(PeerError, match="ends after 20 bytes"):
        read_header(io.BytesIO(file[:20]), size=len(file))

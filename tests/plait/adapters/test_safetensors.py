"""Safetensors files and JSON, ours and anybody's."""

import contextlib
import io
import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from safetensors import SafetensorError
from safetensors import numpy as reference

from plait.adapters.safetensors import (
    MAX_DEPTH,
    MAX_HEADER_BYTES,
    decode_safetensors,
    encode_arrays,
    parse_object,
    read_header,
    read_safetensors,
)
from plait.errors import PeerError


def parse(data: bytes) -> object:
    return parse_object(data, what="thing", max_bytes=100_000)


@settings(max_examples=200)
@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,0-9eE.tfnul\\ ', max_size=60).map(str.encode))
def test_any_bytes_give_an_object_or_a_peer_error(data):
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
        (b'{"a":NaN}', "holds NaN"),
        (b'{"a":"\xff"}', "not UTF-8 at byte 6"),
        ('{"a":1}'.encode("utf-16"), "not UTF-8"),
        (b'{"a":' + b"9" * 5000 + b"}", "not JSON"),
        (nested(MAX_DEPTH + 1), "nested deeper"),
        (b"[" * 90_000, "nested deeper"),
        (b" " * 100_001, "has 100001 bytes, expected at most 100000"),
    ],
)
def test_anything_else_is_refused_saying_why(data, message):
    with pytest.raises(PeerError, match=f"thing .*{message}|thing gives key {message}"):
        parse(data)


def test_the_deepest_allowed_object_is_read():
    assert parse(nested(MAX_DEPTH))


def test_a_long_header_is_refused_before_it_is_read():
    stream = io.BytesIO((MAX_HEADER_BYTES + 1).to_bytes(8, "little"))
    with pytest.raises(PeerError, match=f"expected at most {MAX_HEADER_BYTES}"):
        read_header(stream, size=1 << 40)
    assert stream.tell() == 8


def test_a_file_that_shrinks_while_it_is_read_is_refused():
    file = file_of({"x": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, bytes(1))
    with pytest.raises(PeerError, match="ends after 20 bytes"):
        read_header(io.BytesIO(file[:20]), size=len(file))


NAMES = st.text(st.characters(codec="ascii", exclude_characters="/\\.", categories=["L", "N", "P"]), min_size=1)
TENSORS = st.dictionaries(
    NAMES.filter(lambda name: name != "__metadata__"),
    npst.arrays(
        np.float32,
        npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    ),
    max_size=5,
)


def file_of(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def one(name: str = "x", data: bytes = bytes(8), **fields: object) -> bytes:
    return file_of({name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **fields}}, data)


def two(first: list[int], second: list[int], data: bytes) -> bytes:
    entries = {
        name: {"dtype": "F32", "shape": [(offsets[1] - offsets[0]) // 4], "data_offsets": offsets}
        for name, offsets in (("x", first), ("y", second))
    }
    return file_of(entries, data)


X = '"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'

HOSTILE = {
    # the length
    "empty file": (b"", "has 0 bytes, expected at least 8"),
    "length beyond the file": ((100).to_bytes(8, "little") + b"{}", "claims 100 bytes, expected at most 2"),
    "length 0": (bytes(8), "begins with"),
    # the JSON
    "header is a list": (file_of([]), "begins with"),
    "key twice": (file_of(f"{{{X},{X}}}".encode(), bytes(8)), "gives key 'x' twice"),
    "entry is a number": (file_of({"x": 7}), "expected dtype, shape and data_offsets"),
    "field too many": (one(stride=[1]), "expected dtype, shape and data_offsets"),
    "metadata holds a number": (file_of({"__metadata__": {"format": 1}}), "expected a string"),
    # the name
    "path as name": (one("../../etc/x"), "looks like a path"),
    "NUL in the name": (one("a\0b"), "control or invisible"),
    "no name": (one(""), "has 0 characters"),
    # the dtype
    "integers": (one(dtype="I32"), "dtype of 'x' is I32, expected one of BF16, F16, F32, F64"),
    # the shape
    "negative": (one(shape=[-2]), "shape of 'x' is"),
    "boolean": (one(shape=[True, 2]), "shape of 'x' is"),
    "huge": (one(shape=[2**62]), "shape of 'x' is"),
    "product that wraps to 2 in 64 bits": (one(shape=[2**32, 2**32 + 1, 2]), "shape of 'x' is"),
    "empty but beyond numpy": (one(data=b"", shape=[0, 2**47, 2**47], data_offsets=[0, 0]), "elements"),
    "shape larger than its bytes": (one(shape=[3]), "has 8 bytes, expected 12"),
    # the offsets
    "offsets backwards": (one(data_offsets=[8, 0]), "data_offsets of 'x' are"),
    "beyond the file": (one(data=bytes(4)), "expected .*, the end of the file"),
    "no tensor but bytes": (file_of({}, bytes(4)), "the end of the file"),
    "gap between": (two([0, 8], [12, 20], bytes(20)), "tensor 'y' begins .* gap"),
    "same bytes twice": (two([0, 8], [0, 8], bytes(8)), "tensor 'y' begins .* overlaps"),
    # the values
    "NaN": (one(data=np.array([0, np.nan], "<f4").tobytes()), "tensor 'x' holds NaN or infinity"),
    "bfloat16 NaN": (one(dtype="BF16", shape=[4], data=b"\xc0\x7f" * 4), "tensor 'x' holds NaN or infinity"),
    "float64 beyond float32": (one(dtype="F64", shape=[1], data=np.array([1e300]).tobytes()), "beyond float32"),
}


@pytest.mark.parametrize(("data", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_are_refused_saying_why(data, message, tmp_path):
    with pytest.raises(PeerError, match=message) as refusal:
        decode_safetensors(data)
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 500
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(data)
    with pytest.raises(PeerError, match=message):
        read_safetensors(path)


@pytest.mark.slow
@settings(max_examples=40)
@given(TENSORS)
def test_what_is_written_is_read_back_exactly_here_and_by_the_library(tensors):
    data = encode_arrays(tensors)
    for read in (decode_safetensors(data), reference.load(data)):
        assert read.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert read[name].dtype == np.float32
            assert read[name].shape == tensor.shape
            assert read[name].tobytes() == tensor.tobytes()


@pytest.mark.slow
@settings(max_examples=200)
@given(st.data())
def test_a_changed_file_is_refused_or_gives_finite_floats(data):
    whole = bytearray(encode_arrays({"a": np.ones((2, 3), np.float32), "b": np.ones(4, np.float32)}, {"k": "v"}))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    for mutant in (bytes(whole), cut):
        try:
            tensors = decode_safetensors(mutant)
        except PeerError:
            continue
        assert all(np.isfinite(tensor).all() for tensor in tensors.values())
        try:
            known = reference.load(mutant)
        except SafetensorError:
            pytest.fail("plait reads a file that the library refuses")
        assert known.keys() == tensors.keys()


def test_half_and_double_precision_become_float32():
    values = np.array([1.0, -0.5, 0.15625, 3.0], np.float32)
    as_bfloat16 = (values.view(np.uint32) >> 16).astype("<u2")
    stored = {"BF16": as_bfloat16, "F16": values.astype("<f2"), "F64": values.astype("<f8")}
    for dtype, array in stored.items():
        raw = array.tobytes()
        read = decode_safetensors(one(dtype=dtype, shape=[2, 2], data=raw, data_offsets=[0, len(raw)]))["x"]
        assert read.dtype == np.float32
        assert read.tolist() == values.reshape(2, 2).tolist()


def test_bytes_depend_on_names_and_values_only():
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.float32([7])
    metadata = {"format": "pt", "z": "1", "a": "2"}
    data = encode_arrays({"a": a, "b": b}, metadata)
    turned = dict(reversed(metadata.items()))
    assert encode_arrays({"b": b, "a": np.asfortranarray(a)}, turned) == data
    assert (8 + int.from_bytes(data[:8], "little")) % 8 == 0


def test_a_file_beyond_the_limit_is_refused(tmp_path, monkeypatch):
    size = (tmp_path / "x").write_bytes(encode_arrays({"a": np.zeros(100, np.float32)}))
    monkeypatch.setattr("plait.adapters.safetensors.MAX_BYTES", size)
    assert read_safetensors(tmp_path / "x")
    monkeypatch.setattr("plait.adapters.safetensors.MAX_BYTES", size - 1)
    with pytest.raises(PeerError, match=f"has {size} bytes, expected at most {size - 1}"):
        read_safetensors(tmp_path / "x")


def test_a_missing_file_a_directory_and_a_pipe_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "missing", tmp_path, tmp_path / "pipe"):
        with pytest.raises(PeerError, match="cannot read"):
            read_safetensors(path)

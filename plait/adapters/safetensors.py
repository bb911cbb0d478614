"""Safetensors files and JSON, written, and read from anybody (https://github.com/huggingface/safetensors#format).

plait has its own reader and writer, because two parsers that understand one hostile header differently are a
vulnerability: the library loads NaN, duplicate keys and a tensor named ``../../etc/x``, and writes metadata in a
varying order. JSON from outside is bounded, one object, without duplicate keys and NaN.
"""

import io
import json
import math
import os
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, cast

import numpy as np
from numpy.typing import NDArray

from plait.adapters.state import Float32
from plait.errors import PeerError
from plait.system.files import failures_to, open_plain
from plait.system.text import Json, read_json

MAX_DEPTH = 32

_shown = reprlib.Repr()
_shown.maxstring = _shown.maxother = 80


def shown(value: object) -> str:
    """`value` for an error message: a short `repr`, without control characters and of bounded length."""
    return _shown.repr(value)


def parse_object(data: bytes, *, what: str, max_bytes: int) -> dict[str, Json]:
    """The JSON object in `data`, UTF-8 text.

    Raises:
        PeerError: too large, not UTF-8, not JSON, not an object, a duplicate key, NaN or Infinity, or nested deeper
            than `MAX_DEPTH`.
    """
    if len(data) > max_bytes:
        raise PeerError(f"{what} has {len(data)} bytes, expected at most {max_bytes}")

    def refuse_constant(constant: str) -> NoReturn:
        raise PeerError(f"{what} holds {constant}, which is not finite")

    def unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
        built: dict[str, Json] = {}
        for key, value in pairs:
            if key in built:
                raise PeerError(f"{what} gives key {shown(key)} twice")
            built[key] = value
        return built

    try:
        parsed = read_json(data.decode("utf-8"), most=MAX_DEPTH, pairs=unique, constant=refuse_constant)
    except UnicodeDecodeError as error:
        raise PeerError(f"{what} is not UTF-8 at byte {error.start}") from error
    except ValueError as error:
        # The decoder's own message quotes no text, only line and column.
        raise PeerError(f"{what} is not JSON ({error})") from error
    if not isinstance(parsed, dict):
        raise PeerError(f"{what} holds {shown(parsed)}, expected a JSON object")
    return cast("dict[str, Json]", parsed)


METADATA_KEY = "__metadata__"
MAX_HEADER_BYTES = 16 << 20
MAX_DIMENSIONS = 8
# Bounds every dimension even where another is 0, and stays below what numpy can address.
MAX_ELEMENTS = 1 << 48

_BITS = {
    "F4": 4,
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("C64", "F64", "I64", "U64"), 64),
}


@dataclass(frozen=True)
class TensorEntry:
    """Type, as safetensors names it, shape and position in the file of one tensor."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class SafetensorsHeader:
    """The header of a safetensors file: its tensors by name and its free-form metadata."""

    tensors: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]


def read_header(stream: io.BufferedIOBase, *, size: int) -> SafetensorsHeader:
    """Read and check the header of the safetensors file of `size` bytes at the start of `stream`."""
    prefix = stream.read(8)
    if len(prefix) < 8:
        raise PeerError(f"safetensors file has {len(prefix)} bytes, expected at least 8")
    length = int.from_bytes(prefix, "little")
    if length > min(MAX_HEADER_BYTES, size - 8):
        raise PeerError(f"safetensors header claims {length} bytes, expected at most {min(MAX_HEADER_BYTES, size - 8)}")
    text = stream.read(length)
    if len(text) < length:
        raise PeerError(f"safetensors file ends after {8 + len(text)} bytes, expected {size}")
    if not text.startswith(b"{"):
        raise PeerError(f"safetensors header begins with {shown(text[:1])}, expected b'{{'")
    parsed = parse_object(text, what="safetensors header", max_bytes=MAX_HEADER_BYTES)
    metadata = _metadata(parsed.pop(METADATA_KEY, {}))
    tensors = {name: _entry(name, fields, data_begin=8 + length) for name, fields in parsed.items()}
    _check_coverage(tensors, begin=8 + length, end=size)
    return SafetensorsHeader(tensors, metadata)


def _metadata(value: Json) -> dict[str, str]:
    if not isinstance(value, dict):
        raise PeerError(f"safetensors metadata is {shown(value)}, expected an object of strings")
    for key, text in value.items():
        if not isinstance(text, str):
            raise PeerError(f"safetensors metadata {shown(key)} is {shown(text)}, expected a string")
    return cast("dict[str, str]", value)


def _entry(name: str, fields: Json, *, data_begin: int) -> TensorEntry:
    if not isinstance(fields, dict) or fields.keys() != {"dtype", "shape", "data_offsets"}:
        raise PeerError(f"tensor {shown(name)} is {shown(fields)}, expected dtype, shape and data_offsets")
    dtype = fields["dtype"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise PeerError(f"dtype of {shown(name)} is {shown(dtype)}, expected one that safetensors knows")
    shape = _counts(fields["shape"])
    if shape is None or len(shape) > MAX_DIMENSIONS:
        raise PeerError(
            f"shape of {shown(name)} is {shown(fields['shape'])}, "
            f"expected at most {MAX_DIMENSIONS} whole numbers from 0 to {MAX_ELEMENTS}"
        )
    if math.prod(max(n, 1) for n in shape) > MAX_ELEMENTS:
        raise PeerError(f"shape of {shown(name)} is {shown(list(shape))}, expected at most {MAX_ELEMENTS} elements")
    offsets = _counts(fields["data_offsets"])
    if offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise PeerError(f"data_offsets of {shown(name)} are {shown(fields['data_offsets'])}, expected [begin, end]")
    bits = math.prod(shape) * _BITS[dtype]
    if (offsets[1] - offsets[0]) * 8 != bits:
        raise PeerError(
            f"tensor {shown(name)} has {offsets[1] - offsets[0]} bytes, "
            f"expected {bits / 8:g} for {dtype} of shape {list(shape)}"
        )
    return TensorEntry(dtype, shape, data_begin + offsets[0], data_begin + offsets[1])


def _counts(value: Json) -> tuple[int, ...] | None:
    # type() and not isinstance: JSON's true is no number.
    if not isinstance(value, list):
        return None
    counts = tuple(n for n in value if type(n) is int and 0 <= n <= MAX_ELEMENTS)
    return counts if len(counts) == len(value) else None


def _check_coverage(tensors: Mapping[str, TensorEntry], *, begin: int, end: int) -> None:
    at = begin
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != at:
            fault = "overlaps the tensor before it" if entry.begin < at else "leaves a gap before it"
            raise PeerError(f"tensor {shown(name)} begins at byte {entry.begin}, expected {at}: it {fault}")
        at = entry.end
    if at != end:
        raise PeerError(f"tensors end at byte {at}, expected {end}, the end of the file")


MAX_NAME_CHARACTERS = 512

# What arrays of other kinds than an adapter's may hold.
_EXACT = {"F32": "<f4", "F64": "<f8", "I64": "<i8", "U32": "<u4"}


def encode_arrays(arrays: Mapping[str, NDArray[np.generic]], metadata: Mapping[str, str] | None = None) -> bytes:
    """Named arrays of float32, float64, int64 or uint32 as the bytes of a safetensors file, all in name order."""
    header: dict[str, object] = {METADATA_KEY: dict(sorted(metadata.items()))} if metadata else {}
    dtypes = {np.dtype(stored): name for name, stored in _EXACT.items()}
    offset = 0
    for name in sorted(arrays):
        array = arrays[name]
        fault = name_fault(name)
        if fault:
            raise ValueError(f"tensor name {shown(name)} {fault}")
        header[name] = {
            "dtype": dtypes[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    # The format requires the data to begin at a multiple of 8.
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(f"safetensors header has {len(text)} bytes, expected at most {MAX_HEADER_BYTES}")
    values = (np.ascontiguousarray(arrays[name], arrays[name].dtype.newbyteorder("<")).data for name in sorted(arrays))
    return b"".join([len(text).to_bytes(8, "little"), text, *values])


def decode_arrays(data: bytes) -> tuple[dict[str, NDArray[np.generic]], dict[str, str]]:
    """Arrays and metadata that `encode_arrays` was given; the arrays are views of `data`."""
    header = read_header(io.BytesIO(data), size=len(data))
    arrays: dict[str, NDArray[np.generic]] = {}
    for name, entry in header.tensors.items():
        if entry.dtype not in _EXACT:
            raise PeerError(f"dtype of {shown(name)} is {entry.dtype}, expected one of {', '.join(_EXACT)}")
        values = np.frombuffer(data, _EXACT[entry.dtype], entry.size, entry.begin)
        arrays[name] = values.reshape(entry.shape)
    return arrays, dict(header.metadata)


def name_fault(name: str) -> str | None:
    """Why a tensor may not have this name; None if it may."""
    if not 0 < len(name) <= MAX_NAME_CHARACTERS:
        return f"has {len(name)} characters, expected 1 to {MAX_NAME_CHARACTERS}"
    if name == METADATA_KEY:
        return "is reserved for the metadata"
    if not name.isprintable():
        return "holds control or invisible characters, expected printable ones"
    if "/" in name or "\\" in name or ".." in name:
        return "looks like a path, expected a dotted module name"
    return None


# A rank-64 adapter on every linear layer of a 70B base is 3.3 GB in float32; a checkpoint holds two.
MAX_BYTES = 8 << 30
_FLOATS = {"BF16": "<u2", "F16": "<f2", "F32": "<f4", "F64": "<f8"}


def read_safetensors(path: Path) -> dict[str, Float32]:
    """All tensors of the file at `path`, cast to float32; 16-bit floats take twice their size in memory.

    Raises:
        PeerError: the file cannot be read, is too large, or is not a valid file of named finite floats.
    """
    with failures_to(f"read '{path}'", PeerError), open_plain(path) as file:
        return _decode(file, size=os.fstat(file.fileno()).st_size)


def decode_safetensors(data: bytes) -> dict[str, Float32]:
    """All tensors of a safetensors file held in memory, cast to float32."""
    return _decode(io.BytesIO(data), size=len(data))


def read_header_of(path: Path) -> SafetensorsHeader:
    """The header of the file at `path`; its author chose every character of its metadata."""
    with failures_to(f"read '{path}'", PeerError), open_plain(path) as file:
        return read_header(file, size=os.fstat(file.fileno()).st_size)


def _decode(stream: io.BufferedIOBase, *, size: int) -> dict[str, Float32]:
    if size > MAX_BYTES:
        raise PeerError(f"safetensors file has {size} bytes, expected at most {MAX_BYTES}")
    header = read_header(stream, size=size)
    for name, entry in header.tensors.items():
        if fault := name_fault(name):
            raise PeerError(f"tensor name {shown(name)} {fault}")
        if entry.dtype not in _FLOATS:
            raise PeerError(f"dtype of {shown(name)} is {entry.dtype}, expected one of {', '.join(_FLOATS)}")
    return {name: _read_tensor(stream, name, entry) for name, entry in header.tensors.items()}


def _read_tensor(stream: io.BufferedIOBase, name: str, entry: TensorEntry) -> Float32:
    raw = bytearray(entry.end - entry.begin)
    stream.seek(entry.begin)
    if stream.readinto(raw) != len(raw):
        raise PeerError(f"safetensors file ends inside tensor {shown(name)}, expected {len(raw)} bytes of it")
    stored: NDArray[np.generic] = np.frombuffer(raw, _FLOATS[entry.dtype])
    if entry.dtype == "BF16":
        # bfloat16 is the upper half of a float32.
        stored = (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if not np.isfinite(stored).all():
        raise PeerError(f"tensor {shown(name)} holds NaN or infinity")
    with np.errstate(over="ignore", under="ignore"):
        values = stored.astype(np.float32, copy=False)
    if entry.dtype == "F64" and not np.isfinite(values).all():
        raise PeerError(f"tensor {shown(name)} holds values beyond float32, expected at most 3.4e38")
    return values.reshape(entry.shape)

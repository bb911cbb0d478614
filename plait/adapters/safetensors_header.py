"""The header of a safetensors file, checked before any value is read.

    8 bytes   length n of the header, little-endian
    n bytes   JSON: {"__metadata__": {str: str}, name: {"dtype", "shape", "data_offsets": [begin, end]}, …}
    the rest  the tensors' bytes, without gaps and without overlaps

plait has its own reader, because two parsers that understand one hostile header differently are a vulnerability.
Any dtype passes here (a base has integer and 8-bit tensors); `safetensors_file` restricts those of an adapter.
Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass

from plait.adapters.spec import Json
from plait.adapters.strict_json import parse_object, shown
from plait.errors import PeerError

METADATA_KEY = "__metadata__"
MAX_HEADER_BYTES = 16 << 20
MAX_DIMENSIONS = 8
# Bounds every dimension even where another is 0, and stays below what numpy can address.
MAX_ELEMENTS = 1 << 48

_BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}


@dataclass(frozen=True)
class TensorEntry:
    """Position of one tensor.

    Attributes:
        dtype: safetensors' name for it, such as ``F32``.
        shape: its dimensions; empty for a scalar.
        begin: position of its first byte in the file.
    """

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
    """Read and check the header of the safetensors file at the start of `stream`.

    Args:
        stream: seekable bytes.
        size: bytes of the whole file.

    Raises:
        PeerError: a length, name, dtype, shape or offset that no valid file has.
    """
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
    checked: dict[str, str] = {}
    for key, text in value.items():
        if not isinstance(text, str):
            raise PeerError(f"safetensors metadata {shown(key)} is {shown(text)}, expected a string")
        checked[key] = text
    return checked


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

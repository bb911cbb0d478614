"""Float32 tensors in safetensors files: read from untrusted sources, written with the same bytes every time.

The safetensors library loads NaN, duplicate keys and a tensor named ``../../etc/x``, and writes its metadata in a
varying order; this module does neither. Knows nothing of adapters, only of named floats.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plait.adapters.safetensors_header import (
    MAX_HEADER_BYTES,
    METADATA_KEY,
    SafetensorsHeader,
    TensorEntry,
    read_header,
)
from plait.adapters.state import Float32
from plait.adapters.strict_json import shown
from plait.errors import PeerError
from plait.files import open_plain, write_atomically

# A rank-64 adapter on every linear layer of a 70B base is 3.3 GB in float32; a checkpoint holds two.
MAX_BYTES = 8 << 30
MAX_NAME_CHARACTERS = 512

# What arrays of other kinds than an adapter's may hold.
_EXACT = {"F32": "<f4", "F64": "<f8", "I64": "<i8", "U32": "<u4"}
_FLOATS = {"BF16": "<u2", "F16": "<f2", "F32": "<f4", "F64": "<f8"}


def read_safetensors(path: Path, *, max_bytes: int = MAX_BYTES) -> dict[str, Float32]:
    """All tensors of the file at `path`, cast to float32.

    Args:
        max_bytes: refuse a larger file; 16-bit floats take twice their size in memory.

    Raises:
        PeerError: the file cannot be read, is too large, or is not a valid file of named finite floats.
    """
    with _opened(path) as file:
        return _decode(file, size=_size(file), max_bytes=max_bytes)


def decode_safetensors(data: bytes, *, max_bytes: int = MAX_BYTES) -> dict[str, Float32]:
    """All tensors of a safetensors file held in memory; the inverse of `encode_safetensors`.

    Raises:
        PeerError: as for `read_safetensors`.
    """
    return _decode(io.BytesIO(data), size=len(data), max_bytes=max_bytes)


def read_metadata(path: Path) -> dict[str, str]:
    """The free-form metadata of the file at `path`; its author chose every character of it.

    Raises:
        PeerError: the file cannot be read or its header is invalid.
    """
    with _opened(path) as file:
        return dict(read_header(file, size=_size(file)).metadata)


def tensor_names(path: Path) -> list[str]:
    """The names of the tensors in the file at `path`, without reading their values.

    Raises:
        PeerError: the file cannot be read or its header is invalid.
    """
    with _opened(path) as file:
        return list(read_header(file, size=_size(file)).tensors)


def write_safetensors(path: Path, tensors: Mapping[str, Float32], metadata: Mapping[str, str] | None = None) -> None:
    """Write named float32 tensors to `path`; equal tensors and metadata give equal bytes.

    Raises:
        MachineError: the directory is missing or read-only, or the disk is full.
    """
    write_atomically(path, encode_safetensors(tensors, metadata))


def encode_safetensors(tensors: Mapping[str, Float32], metadata: Mapping[str, str] | None = None) -> bytes:
    """Named float32 tensors as the bytes of a safetensors file, tensors and metadata in name order."""
    for name, tensor in tensors.items():
        if tensor.dtype != np.float32:
            raise ValueError(f"dtype of {shown(name)} is {tensor.dtype}, expected float32")
    return encode_arrays(tensors, metadata)


def encode_arrays(arrays: Mapping[str, NDArray[np.generic]], metadata: Mapping[str, str] | None = None) -> bytes:
    """Named arrays of float32, float64, int64 or uint32 as the bytes of a safetensors file, in name order."""
    header: dict[str, object] = {METADATA_KEY: dict(sorted(metadata.items()))} if metadata else {}
    dtypes = {np.dtype(stored): name for name, stored in _EXACT.items()}
    offset = 0
    for name in sorted(arrays):
        array = arrays[name]
        fault = _name_fault(name)
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
    """Arrays and metadata that `encode_arrays` was given; the arrays are views of `data`.

    Raises:
        PeerError: it is not a sound file of such arrays.
    """
    header = read_header(io.BytesIO(data), size=len(data))
    arrays: dict[str, NDArray[np.generic]] = {}
    for name, entry in header.tensors.items():
        if entry.dtype not in _EXACT:
            raise PeerError(f"dtype of {shown(name)} is {entry.dtype}, expected one of {', '.join(_EXACT)}")
        values = np.frombuffer(data, _EXACT[entry.dtype], entry.size, entry.begin)
        arrays[name] = values.reshape(entry.shape)
    return arrays, dict(header.metadata)


def _opened(path: Path) -> io.BufferedReader:
    try:
        return open_plain(path)
    except OSError as error:
        raise PeerError(f"cannot read '{path}': {error.strerror or error}, expected a safetensors file") from error


def _size(file: io.BufferedReader) -> int:
    return os.fstat(file.fileno()).st_size


def _decode(stream: io.BufferedIOBase, *, size: int, max_bytes: int) -> dict[str, Float32]:
    if size > max_bytes:
        raise PeerError(f"safetensors file has {size} bytes, expected at most {max_bytes}")
    header = read_header(stream, size=size)
    _check_adapter_tensors(header)
    return {name: _read_tensor(stream, name, entry) for name, entry in header.tensors.items()}


def _check_adapter_tensors(header: SafetensorsHeader) -> None:
    for name, entry in header.tensors.items():
        fault = _name_fault(name)
        if fault:
            raise PeerError(f"tensor name {shown(name)} {fault}")
        if entry.dtype not in _FLOATS:
            raise PeerError(f"dtype of {shown(name)} is {entry.dtype}, expected one of {', '.join(_FLOATS)}")


def _name_fault(name: str) -> str | None:
    if not 0 < len(name) <= MAX_NAME_CHARACTERS:
        return f"has {len(name)} characters, expected 1 to {MAX_NAME_CHARACTERS}"
    if name == METADATA_KEY:
        return "is reserved for the metadata"
    if not name.isprintable():
        return "holds control or invisible characters, expected printable ones"
    if "/" in name or "\\" in name or ".." in name:
        return "looks like a path, expected a dotted module name"
    return None


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
        raise PeerError(f"tensor {shown(name)} holds NaN or infinity, expected finite values")
    with np.errstate(over="ignore", under="ignore"):
        values = stored.astype(np.float32, copy=False)
    if entry.dtype == "F64" and not np.isfinite(values).all():
        raise PeerError(f"tensor {shown(name)} holds values beyond float32, expected at most 3.4e38")
    return values.reshape(entry.shape)

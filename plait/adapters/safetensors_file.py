"""Arrays in safetensors files, written with the same bytes every time; `safetensors_reading` reads those of others.

The safetensors library loads NaN, duplicate keys and a tensor named ``../../etc/x``, and writes its metadata in a
varying order; this module does neither. Knows nothing of adapters, only of named floats.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plait.adapters.safetensors_header import (
    MAX_HEADER_BYTES,
    METADATA_KEY,
    read_header,
)
from plait.adapters.state import Float32
from plait.adapters.strict_json import shown
from plait.errors import PeerError
from plait.files import write_atomically

MAX_NAME_CHARACTERS = 512

# What arrays of other kinds than an adapter's may hold.
_EXACT = {"F32": "<f4", "F64": "<f8", "I64": "<i8", "U32": "<u4"}


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

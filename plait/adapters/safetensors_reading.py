"""Float32 tensors read from safetensors files, which are not trusted; `safetensors_file` writes them."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plait.adapters.safetensors_file import name_fault
from plait.adapters.safetensors_header import SafetensorsHeader, TensorEntry, read_header
from plait.adapters.state import Float32
from plait.adapters.strict_json import shown
from plait.errors import PeerError
from plait.files import open_plain

# A rank-64 adapter on every linear layer of a 70B base is 3.3 GB in float32; a checkpoint holds two.
MAX_BYTES = 8 << 30
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
        fault = name_fault(name)
        if fault:
            raise PeerError(f"tensor name {shown(name)} {fault}")
        if entry.dtype not in _FLOATS:
            raise PeerError(f"dtype of {shown(name)} is {entry.dtype}, expected one of {', '.join(_FLOATS)}")


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

"""The identity of a base: one SHA-256 over its weights, its configuration and its tokenizer.

It does not depend on how the weights are split over files, which library saved them, or where they are. It is of these
lines, each ending in a newline, with each array as JSON without spaces and in ASCII (proto/README.md has the details)::

    plait-base-1
    ["tensor",NAME,DTYPE,SHAPE,HASH]     every tensor, in the order of the names' code points
    ["config",HASH]                      without `VOLATILE_CONFIG_KEYS`, keys sorted
    ["file",NAME,HASH]                   every one of `TOKENIZER_FILES` that is present, in name order
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from plait.adapters.safetensors import TensorEntry, parse_object, read_header, shown
from plait.adapters.spec import is_fingerprint
from plait.errors import DataError, MachineError
from plait.system.files import failures_to, is_ours, make_private_directory, write_atomically
from plait.system.text import Json, read_json

TOKENIZER_FILES = (
    "chat_template.jinja", "merges.txt", "spiece.model", "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt",
)  # fmt: skip
VOLATILE_CONFIG_KEYS = frozenset({
    "_attn_implementation_autoset", "_model_name_or_path", "_name_or_path", "dtype", "torch_dtype",
    "transformers_version", "use_cache",
})  # fmt: skip

_CONFIG = "config.json"
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_MAX_INDEX_BYTES = 64 << 20
_SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,250}\.safetensors")
_CHUNK_BYTES = 1 << 20
_THREADS = 8

Stamps = dict[str, list[int]]


def fingerprint_base(directory: Path, *, cache: Path | None = None) -> str:
    """The fingerprint of the base in `directory`, 64 hexadecimal digits.

    Args:
        cache: a JSON file that stores fingerprints by path, file sizes and modification times, so that the next call
            reads no weights. Its content is trusted, so it is used only if no other user can have written it.

    Raises:
        DataError: config.json or the weights are missing, incomplete or not safetensors.
        PeerError: a weight file is not a valid safetensors file.
        MachineError: a file cannot be read.
    """
    with failures_to(f"read the base in '{directory}'"):
        others = (directory / name for name in (_CONFIG, *TOKENIZER_FILES))
        files = [*weight_files(directory), *(path for path in others if path.is_file())]
        stamps = _stamps(files)
        place = str(directory.resolve())
        if remembered := _remembered(cache, place, stamps):
            return remembered
        fingerprint = _compute(directory)
        if cache is not None and _stamps(files) == stamps:
            _remember(cache, place, stamps, fingerprint)
    return fingerprint


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor of a base is: its file, and type, shape and position in it."""

    path: Path
    entry: TensorEntry


def _compute(directory: Path) -> str:
    hasher = hashlib.sha256(b"plait-base-1\n")

    def add_line(*parts: Json) -> None:
        hasher.update(_canonical(list(parts)) + b"\n")

    tensors = sorted(stored_tensors(directory).items())
    # hashlib releases the interpreter lock, so threads hash in parallel.
    pool = ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1))
    try:
        paths, entries = [stored.path for _, stored in tensors], [stored.entry for _, stored in tensors]
        digests = pool.map(_hash_range, paths, (each.begin for each in entries), (each.end for each in entries))
        for (name, stored), digest in zip(tensors, digests, strict=True):
            add_line("tensor", name, stored.entry.dtype, list(stored.entry.shape), digest)
    finally:
        # Ctrl-C waits for the tensors being hashed, not for the hundreds in the queue.
        pool.shutdown(cancel_futures=True)
    add_line("config", _config_hash(directory / _CONFIG))
    for name in TOKENIZER_FILES:
        path = directory / name
        if path.is_file():
            add_line("file", name, _hash_range(path, 0, path.stat().st_size))
    return hasher.hexdigest()


def stored_tensors(directory: Path) -> dict[str, StoredTensor]:
    """All tensors of the base in `directory`, by name; reads headers only."""
    tensors: dict[str, StoredTensor] = {}
    for path in weight_files(directory):
        with path.open("rb") as file:
            header = read_header(file, size=os.fstat(file.fileno()).st_size)
        for name, entry in header.tensors.items():
            if name in tensors:
                raise DataError(f"tensor {shown(name)} is in '{tensors[name].path}' and in '{path}': keep one of them")
            tensors[name] = StoredTensor(path, entry)
    if not tensors:
        raise DataError(f"the weights in '{directory}' hold no tensor")
    return tensors


def weight_files(directory: Path) -> list[Path]:
    """The files with the weights of the base in `directory`."""
    if (directory / _WEIGHTS).is_file():
        return [directory / _WEIGHTS]
    if (directory / _INDEX).is_file():
        return [directory / name for name in _shards(directory / _INDEX)]
    if any(directory.glob("*.bin")):
        raise DataError(
            f"the weights in '{directory}' are .bin files, which can run code when loaded: "
            "convert them with transformers' save_pretrained"
        )
    raise DataError(f"'{directory}' holds neither {_WEIGHTS} nor {_INDEX}, expected a model directory")


def _shards(index: Path) -> list[str]:
    weight_map = parse_object(index.read_bytes(), what=f"'{index}'", max_bytes=_MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict):
        raise DataError(f"weight_map of '{index}' is {shown(weight_map)}, expected an object of file names")
    names: set[str] = set()
    for name in weight_map.values():
        if not isinstance(name, str) or not _SHARD_NAME.fullmatch(name):
            raise DataError(f"'{index}' names the file {shown(name)}, expected a .safetensors file beside it")
        names.add(name)
    missing = sorted(name for name in names if not (index.parent / name).is_file())
    if missing:
        raise DataError(f"'{index.parent / missing[0]}' is missing: fetch all {len(names)} files of '{index}'")
    return sorted(names)


def _hash_range(path: Path, begin: int, end: int) -> str:
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(begin)
        left = end - begin
        while left:
            chunk = file.read(min(left, _CHUNK_BYTES))
            if not chunk:
                raise DataError(f"'{path}' ends at byte {end - left}, expected {end}: it changed while it was read")
            hasher.update(chunk)
            left -= len(chunk)
    return hasher.hexdigest()


def _config_hash(path: Path) -> str:
    try:
        # Not as strict as for a peer's JSON: transformers itself writes Infinity into some configurations.
        config = cast("Json", read_json(path.read_bytes(), pairs=_without_volatile))
        return hashlib.sha256(_canonical(config)).hexdigest()
    except FileNotFoundError as error:
        raise DataError(f"'{path}' is missing, expected a model directory") from error
    except ValueError as error:
        raise DataError(f"'{path}' is not JSON ({error}), expected a model's configuration") from error


def _without_volatile(pairs: list[tuple[str, Json]]) -> Json:
    return {key: value for key, value in pairs if key not in VOLATILE_CONFIG_KEYS}


def _canonical(value: Json) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _stamps(files: list[Path]) -> Stamps:
    stats = ((path.name, path.stat()) for path in files)
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats}


def _read_cache(cache: Path) -> Mapping[str, Json]:
    # The cache only saves time: if anything is wrong with it, it counts as empty.
    if not is_ours(cache):
        return {}
    try:
        parsed = cast("Json", read_json(cache.read_bytes()))
    except (OSError, ValueError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _remembered(cache: Path | None, place: str, stamps: Stamps) -> str | None:
    entry = _read_cache(cache).get(place) if cache is not None else None
    fingerprint = entry.get("fingerprint") if isinstance(entry, dict) and entry.get("files") == stamps else None
    return fingerprint if isinstance(fingerprint, str) and is_fingerprint(fingerprint) else None


def _remember(cache: Path, place: str, stamps: Stamps, fingerprint: str) -> None:
    entries = {**_read_cache(cache), place: {"files": stamps, "fingerprint": fingerprint}}
    with suppress(MachineError, OSError):
        make_private_directory(cache.parent)
        write_atomically(cache, json.dumps(entries, indent=1, sort_keys=True).encode())

"""The data sets that plait knows by name, and loading a dataset from a name or a path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from plait.data import bbc, chatterbot, stdlib
from plait.data.jsonl import read_jsonl
from plait.data.packages import Progress
from plait.data.records import Dataset
from plait.errors import ConfigError, did_you_mean

BUILTINS: Mapping[str, Callable[[Path, Progress], Dataset]] = {
    "bbc": bbc.load,
    "chatterbot": chatterbot.load,
    "stdlib": stdlib.load,
}


def check_data_name(name_or_path: str) -> None:
    """Refuse a name that is neither a built-in nor a file, without reading any data.

    Raises:
        ConfigError, DataError: as `load_dataset`.
    """
    if name_or_path not in BUILTINS and not Path(name_or_path).expanduser().exists():
        _read(name_or_path)


def load_dataset(name_or_path: str, *, cache: Path, progress: Progress) -> Dataset:
    """Load a built-in by its name, or a JSONL file by its path (``./bbc`` is a path).

    Args:
        name_or_path: what the user gave as ``--data``.
        cache: where downloaded packages are kept.
        progress: is told what is downloaded.

    Raises:
        ConfigError: neither a built-in nor a file; the nearest name is given.
        DataError: `read_jsonl` does not accept the file.
        MachineError, PeerError: the built-in cannot be downloaded.
    """
    if load := BUILTINS.get(name_or_path):
        return load(cache, progress)
    return _read(name_or_path)


def _read(name_or_path: str) -> Dataset:
    path = Path(name_or_path).expanduser()
    looks_like_a_path = bool(path.suffix) or len(path.parts) > 1
    if looks_like_a_path or path.exists():
        return read_jsonl(path)
    hint = did_you_mean(name_or_path, BUILTINS)
    raise ConfigError(f"data is '{name_or_path}', expected a JSONL file or one of {', '.join(sorted(BUILTINS))}{hint}")

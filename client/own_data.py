"""A node's own data, read once in a process; it never leaves it.

Knows nothing of models and of runs.
"""

from __future__ import annotations

from functools import lru_cache

from plait.data import Dataset, cache_directory, load_dataset


@lru_cache(maxsize=4)
def own_dataset(data: str) -> Dataset:
    """Read and check every record of a JSONL file (or a built-in set).

    Raises:
        ConfigError: neither a file nor a built-in.
        DataError: it cannot be read, is empty, or a record is not what it must be.
        MachineError, PeerError: a built-in cannot be fetched.
    """
    return load_dataset(data, cache=cache_directory(), progress=lambda _: None)

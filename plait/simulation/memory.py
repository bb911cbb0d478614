"""State of simulated clients between tasks: in this process, and on disk if there is no other copy."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from plait.rounds.disk_memory import DiskMemory
from plait.rounds.memory import IRREPLACEABLE, Memory

_SHARED_KEPT = 4


class SharedBytes:
    """One copy of bytes that many clients store: all clients of a simulation hold the same adapter."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, bytes] = OrderedDict()

    def copy_of(self, data: bytes) -> bytes:
        """Equal bytes stored recently, or these."""
        known = self._known.setdefault(data, data)
        while len(self._known) > _SHARED_KEPT:
            self._known.popitem(last=False)
        return known


class VolatileMemory:
    """A `plait.rounds.memory.Memory` that ends with the process.

    Args:
        shared: of all clients of the process.
    """

    def __init__(self, shared: SharedBytes) -> None:
        self._shared = shared
        self._kept: dict[str, bytes] = {}

    def load(self, key: str) -> bytes | None:
        """The bytes stored under `key`."""
        return self._kept.get(key)

    def save(self, key: str, data: bytes) -> None:
        """Store `data` under `key`."""
        self._kept[key] = self._shared.copy_of(data)


class SimulatedMemory:
    """The memory of a simulated client: values without another copy are stored on disk.

    So a simulation that is killed continues to the same result.
    """

    def __init__(self, volatile: Memory, folder: Path) -> None:
        self._volatile = volatile
        self._kept = DiskMemory(folder, advice="free some, then continue with `plait resume`")

    def load(self, key: str) -> bytes | None:
        """The bytes stored under `key`."""
        return self._of(key).load(key)

    def save(self, key: str, data: bytes) -> None:
        """Store `data` under `key`.

        Raises:
            MachineError: the disk is full or read-only.
        """
        self._of(key).save(key, data)

    def _of(self, key: str) -> Memory:
        return self._kept if key in IRREPLACEABLE else self._volatile

"""What a client keeps between tasks, in the state that Flower keeps for it from message to message."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from flwr.app import Array, ArrayRecord, Context

from client.disk_memory import DiskMemory
from plait.rounds.memory import IRREPLACEABLE, Memory

_SHARED_KEPT = 4
_shared: OrderedDict[int, bytes] = OrderedDict()


class ContextMemory:
    """A `plait.rounds.memory.Memory` in a Flower context.

    Clients of one process that keep the same bytes (all of a simulation keep the same adapter) share one copy.
    """

    def __init__(self, context: Context) -> None:
        self._state = context.state

    def load(self, key: str) -> bytes | None:
        """The bytes kept under `key`."""
        record = self._state.get(f"plait.{key}")
        return record["bytes"].data if isinstance(record, ArrayRecord) else None

    def save(self, key: str, data: bytes) -> None:
        """Keep `data` under `key`."""
        data = _share(data)
        self._state[f"plait.{key}"] = ArrayRecord(
            {"bytes": Array(dtype="uint8", shape=(len(data),), stype="plait.v1", data=data)}
        )


class SimulatedMemory:
    """The memory of a simulated client: as `ContextMemory`, but what nobody could send again is kept on disk.

    So a simulation that is killed goes on to the same result.
    """

    def __init__(self, context: Context, folder: Path) -> None:
        self._inner = ContextMemory(context)
        self._kept = DiskMemory(folder, advice="free some, then go on with `plait resume`")

    def load(self, key: str) -> bytes | None:
        """The bytes kept under `key`."""
        return self._of(key).load(key)

    def save(self, key: str, data: bytes) -> None:
        """Keep `data` under `key`.

        Raises:
            MachineError: the disk is full or read-only.
        """
        self._of(key).save(key, data)

    def _of(self, key: str) -> Memory:
        return self._kept if key in IRREPLACEABLE else self._inner


def _share(data: bytes) -> bytes:
    known = _shared.get(hash(data))
    if known is not None and known == data:
        return known
    _shared[hash(data)] = data
    while len(_shared) > _SHARED_KEPT:
        _shared.popitem(last=False)
    return data

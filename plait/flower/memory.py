"""A client's state between tasks, in the state that Flower keeps for it from message to message."""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, Context

from plait.flower.blob import STYPE


class ContextMemory:
    """A `plait.rounds.memory.Memory` in a Flower context."""

    def __init__(self, context: Context) -> None:
        self._state = context.state

    def load(self, key: str) -> bytes | None:
        """The bytes stored under `key`."""
        record = self._state.get(f"plait.{key}")
        return record["bytes"].data if isinstance(record, ArrayRecord) else None

    def save(self, key: str, data: bytes) -> None:
        """Store `data` under `key`."""
        array = Array(dtype="uint8", shape=(len(data),), stype=STYPE, data=data)
        self._state[f"plait.{key}"] = ArrayRecord({"bytes": array})

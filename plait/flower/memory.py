"""A client's state between tasks, in the state that Flower keeps for it from message to message."""

from __future__ import annotations

from flwr.app import ArrayRecord, Context

from plait.errors import ConfigError
from plait.flower.blob import to_array
from plait.rounds.memory import MUST_LAST


class ContextMemory:
    """A `plait.rounds.memory.ClientStore` in a Flower context."""

    def __init__(self, context: Context) -> None:
        self._state = context.state

    def load(self, key: str) -> bytes | None:
        """The bytes stored under `key`."""
        record = self._state.get(f"plait.{key}")
        return record["bytes"].data if isinstance(record, ArrayRecord) else None

    def save(self, key: str, data: bytes) -> None:
        """Store `data` under `key`.

        Raises:
            ConfigError: Flower keeps it in the node's memory, where it may not be.
        """
        if key in MUST_LAST:
            raise ConfigError(
                "dp of the run is 'record' and this node's state is Flower's, which ends with the node, expected a "
                "directory that lasts: give the node's configuration state=DIRECTORY"
            )
        self._state[f"plait.{key}"] = ArrayRecord({"bytes": to_array(data)})

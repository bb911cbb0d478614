"""What a client keeps between tasks, in the state that Flower keeps for it from message to message."""

from __future__ import annotations

from collections import OrderedDict

from flwr.app import Array, ArrayRecord, Context

_SHARED_KEPT = 4
_shared: OrderedDict[int, bytes] = OrderedDict()


class ContextMemory:
    """A `plait.rounds.participant.Memory` in a Flower context.

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


def _share(data: bytes) -> bytes:
    known = _shared.get(hash(data))
    if known is not None and known == data:
        return known
    _shared[hash(data)] = data
    while len(_shared) > _SHARED_KEPT:
        _shared.popitem(last=False)
    return data

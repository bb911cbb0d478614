"""The data of some simulated clients, for another process."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from plait.data import Message, Record, RecordKind
from plait.simulation.partition import ClientShare
from plait.simulation.partitioned_data import Shares

_TURNS = frozenset({"messages", "chosen", "rejected"})


@dataclass(frozen=True, eq=False)
class SentShares:
    """The data of some clients, as another process sent them.

    Attributes:
        clients: share and histogram by client number.
    """

    kind: RecordKind
    clients: Mapping[int, tuple[ClientShare, Mapping[str, int]]]

    def share(self, index: int) -> ClientShare:
        """The data of one of these clients."""
        return self.clients[index][0]

    def histogram(self, index: int) -> Mapping[str, int]:
        """Counts of its records that may be sent."""
        return self.clients[index][1]

    def to_bytes(self) -> bytes:
        """For `from_bytes`; JSON."""
        clients = {index: (asdict(share), dict(counts)) for index, (share, counts) in self.clients.items()}
        return json.dumps({"kind": self.kind.value, "clients": clients}).encode()

    @classmethod
    def of(cls, data: Shares, indices: Iterable[int]) -> SentShares:
        """Of these clients."""
        return cls(data.kind, {index: (data.share(index), data.histogram(index)) for index in indices})

    @classmethod
    def from_bytes(cls, data: bytes) -> SentShares:
        """The inverse of `to_bytes`."""
        found = json.loads(data)
        clients = {
            int(index): (
                ClientShare(share["name"], _records(share["records"]), _records(share["held_out"])),
                counts,
            )
            for index, (share, counts) in found["clients"].items()
        }
        return cls(RecordKind(found["kind"]), clients)


def _records(found: Iterable[Mapping[str, Any]]) -> tuple[Record, ...]:
    made: list[Record] = []
    for each in found:
        turns = {name: tuple(Message(*turn) for turn in each[name]) for name in _TURNS}
        made.append(replace(Record(**{name: each[name] for name in each.keys() - _TURNS}), **turns))
    return tuple(made)

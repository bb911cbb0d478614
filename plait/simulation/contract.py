"""The contract of a partition scheme."""

from __future__ import annotations

from plait.data import Dataset, Record, RecordKind
from plait.own_code import BrokenError, Check
from plait.simulation.partition import Partition, partition
from plait.simulation.scheme import Scheme

_RECORDS = 120
_CLIENTS = (2, 5)


def _parts(scheme: Scheme, clients: int, seed: int = 0) -> Partition:
    records: list[Record] = []
    for number in range(_RECORDS):
        text, label, author = f"line {number} " * (1 + number % 7), f"class-{number % 3}", f"a{number % 6}"
        records.append(Record(text=text, label=label, columns={"author": author}))
    data = Dataset.of("check", RecordKind.LABEL, records)
    return partition(data, scheme, clients=clients, seed=seed)


def _shares(scheme: Scheme) -> str:
    notes = [note for clients in _CLIENTS for note in _parts(scheme, clients).notes]
    return "; ".join(notes[:1])


def _same(scheme: Scheme) -> None:
    for clients in _CLIENTS:
        if _parts(scheme, clients) != _parts(scheme, clients):
            raise BrokenError("the same data and seed give other shares, expected the same")


PARTITION_CHECKS: tuple[Check[Scheme], ...] = (
    Check("each client gets a share and no record is in two", _shares),
    Check("the same data and seed give the same shares", _same),
)

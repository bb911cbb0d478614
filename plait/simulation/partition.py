"""Partition the records of one dataset over simulated clients.

The result depends only on the dataset, the scheme, the number of clients and the seed. A split that the data holds out
is shared out with the same skew: by the column, or of each class in proportion to the training records (`shares.py`).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from plait.data import Dataset, Record, RecordKind, histogram
from plait.errors import ConfigError
from plait.simulation.scheme import Scheme
from plait.system.text import MAX_NAME_BYTES, is_client_name, nearest_name

# Changed names that are listed.
_MOST_LISTED = 4
_LONGEST_LISTED = 60


@dataclass(frozen=True)
class ClientShare:
    """One simulated client's data: its records are in the dataset's order."""

    name: str
    """Safe as a file name and unique."""
    kind: RecordKind
    records: tuple[Record, ...]
    held_out: tuple[Record, ...]
    """Its part of the split that the data holds out; empty if the end of its own records is held out."""
    histogram: Mapping[str, int]
    """Counts of its records that may be sent."""


@dataclass(frozen=True)
class Partition:
    """A partitioned dataset; no record is in two shares. Notes name values or records that no client got."""

    shares: tuple[ClientShare, ...]
    notes: tuple[str, ...] = ()


def _drawing():
    from plait.simulation import shares  # a column needs none

    return shares


def partition(dataset: Dataset, scheme: Scheme, *, clients: int, seed: int) -> Partition:
    """Partition a dataset.

    Random schemes assign record by record, even if neighbours in the dataset belong together.

    Args:
        clients: how many shares; `natural` takes the values with most text (in characters) where there are more,
            and all where there are fewer.

    Raises:
        ConfigError: the dataset cannot be partitioned in this way for this many clients.
    """
    if len(dataset.records) < clients:
        raise ConfigError(
            f"data '{dataset.name}' has {len(dataset.records)} records, expected at least clients = {clients}"
        )
    if scheme.column:
        return _by_column(dataset, scheme.column, clients)
    make = _drawing().by_function if scheme.kind.split else _drawing().drawn
    names, shares, held_out, notes = make(dataset, scheme, clients=clients, seed=seed)
    return _partition_of(dataset, "", names_of(names), shares, held_out, notes)


def _by_column(dataset: Dataset, column: str, clients: int) -> Partition:
    values = dataset.check_column(column)
    characters: defaultdict[str, int] = defaultdict(int)
    for record, value in zip(dataset.records, values, strict=True):
        characters[cast("str", value)] += len(record.content)
    chosen = sorted(sorted(characters, key=lambda value: (-characters[value], value))[:clients])
    notes: list[str] = []
    if len(characters) < clients:
        notes.append(
            f"column '{column}' has {len(characters)} distinct values: {len(characters)} clients, not {clients}"
        )
    elif len(characters) > clients:
        part = sum(characters[value] for value in chosen) / max(1, sum(characters.values()))
        notes.append(
            f"column '{column}' has {len(characters)} distinct values; "
            f"the {clients} with most text take part, {part:.0%} of all characters"
        )
    # As flwr-datasets' NaturalIdPartitioner, which takes 6 ms a client and a second to import.
    shares = by_value(values, chosen)
    names = names_of(chosen)
    notes.extend(_renamed(column, chosen, names))
    held_out = by_value(dataset.column(column, held_out=True), chosen)
    if dataset.held_out and not any(held_out):
        held_out = _drawing().held_out_by_share(*_drawing().without_classes(dataset, shares))
        notes.append(f"column '{column}' names no client in the held-out split, which is shared out among all")
    return _partition_of(dataset, column, names, shares, held_out, notes)


def _partition_of(
    dataset: Dataset,
    column: str,
    names: Sequence[str],
    shares: Sequence[Sequence[int]],
    held_out: Sequence[Sequence[int]],
    notes: Sequence[str],
) -> Partition:
    """The shares of these clients, as indices of records and of held-out ones; refused if a client gets no record."""
    for name, share in zip(names, shares, strict=True):
        if not share:
            raise ConfigError(f"client '{name}' gets no record, expected at least 1; take fewer clients or other skew")
    if dataset.held_out and (without := [name for name, part in zip(names, held_out, strict=True) if not part]):
        more = f" and {len(without) - _MOST_LISTED} more" if len(without) > _MOST_LISTED else ""
        listed = ", ".join(without[:_MOST_LISTED]) + more
        notes = (*notes, f"the held-out split has no record of {listed}: plait holds out their last ones")
    found: list[ClientShare] = []
    for name, share, part in zip(names, shares, held_out, strict=True):
        records = tuple(dataset.records[index] for index in share)
        counts = histogram(records, dataset, column=column)
        found.append(ClientShare(name, dataset.kind, records, tuple(dataset.held_out[index] for index in part), counts))
    return Partition(tuple(found), tuple(notes))


def names_of(values: Sequence[str]) -> list[str]:
    """A name for each value that a client may have (`is_client_name`): the value itself where it may; all different."""
    names: list[str] = []
    taken: set[str] = set()
    for number, value in enumerate(values):
        stem = _truncated(nearest_name(value), MAX_NAME_BYTES).strip(".-")
        stem = stem if is_client_name(stem) else f"client-{number:02}"
        name, suffix = stem, 1
        while name.casefold() in taken:
            suffix += 1
            name = f"{_truncated(stem, MAX_NAME_BYTES - len(str(suffix)) - 1)}-{suffix}"
        taken.add(name.casefold())
        names.append(name)
    return names


def _renamed(column: str, values: Sequence[str], names: Sequence[str]) -> list[str]:
    changed = [
        f"{value[:_LONGEST_LISTED]!r} became {name}" for value, name in zip(values, names, strict=True) if value != name
    ]
    more = f" and {len(changed) - _MOST_LISTED} more" if len(changed) > _MOST_LISTED else ""
    listed = f"client names from column '{column}' simplified: {', '.join(changed[:_MOST_LISTED])}{more}"
    return [listed] if changed else []


def _truncated(text: str, most_bytes: int) -> str:
    return text.encode()[:most_bytes].decode(errors="ignore")


def by_value(values: Sequence[str | None], clients: Sequence[str]) -> list[list[int]]:
    """For each client, the indices of its records, ascending, by the values of the column that identifies clients."""
    parts: dict[str | None, list[int]] = {client: [] for client in clients}
    for index, value in enumerate(values):
        if value in parts:
            parts[value].append(index)
    return [parts[client] for client in clients]

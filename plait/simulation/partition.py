"""Partition the records of one dataset over simulated clients.

The result depends only on the dataset, the scheme (`scheme.py` lists them), the number of clients and the seed. A split
that the data holds out is shared out, too: clients by a column get the records with their own value of it, others of
each class in proportion to their training records of that class, so that both parts have the same skew, without random
draws. Knows nothing of tokens, models or rounds.
"""

from __future__ import annotations

import contextlib
import io
import operator
import warnings
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, SupportsIndex, cast

import numpy as np
from numpy.typing import NDArray

from plait.data import Dataset, Record, RecordKind
from plait.errors import ConfigError, did_you_mean
from plait.own_code import BrokenError, Check, located_errors
from plait.simulation.scheme import Scheme
from plait.trust.names import MAX_NAME_BYTES, is_client_name, nearest_name

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner

# Changed names that are listed.
_MOST_TOLD = 4
_LONGEST_TOLD = 60


@dataclass(frozen=True)
class ClientShare:
    """One simulated client's data.

    Attributes:
        name: the client's, safe as a file name and unique.
        records: its records, in the dataset's order.
        held_out: its part of the split that the data holds out; empty if the end of its own records is held out.
    """

    name: str
    records: tuple[Record, ...]
    held_out: tuple[Record, ...] = ()


@dataclass(frozen=True)
class Partition:
    """A partitioned dataset; no record is in two shares.

    Attributes:
        notes: for the user, one sentence each: values or records that no client got.
    """

    shares: tuple[ClientShare, ...]
    notes: tuple[str, ...] = ()


def partition(dataset: Dataset, scheme: Scheme, *, clients: int, seed: int) -> Partition:
    """Partition a dataset.

    Random schemes assign record by record, even if neighbours in the dataset belong together: IID shares of a book's
    chapters each hold chapters from all over the book, in the book's order. A held-out split is partitioned in the same
    way.

    Args:
        clients: how many shares; `natural` takes the values with most text (in characters) where there are more.

    Raises:
        ConfigError: the dataset cannot be partitioned in this way for this many clients.
    """
    if len(dataset.records) < clients:
        raise ConfigError(
            f"data '{dataset.name}' has {len(dataset.records)} records, expected at least clients = {clients}"
        )
    if scheme.kind.split is not None:
        return _by_function(dataset, scheme, clients, seed)
    if scheme.kind.make is None:
        return _by_column(dataset, scheme.column, clients)
    return _drawn(dataset, scheme, clients=clients, seed=seed)


def _by_column(dataset: Dataset, column: str, clients: int) -> Partition:
    if column not in dataset.column_names:
        hint = did_you_mean(column, dataset.column_names)
        available = ", ".join(dataset.column_names) or "none"
        raise ConfigError(f"data '{dataset.name}' has no column '{column}', expected one of: {available}{hint}")
    values = dataset.column(column)
    if missing := values.count(None):
        raise ConfigError(f"column '{column}' is missing in {missing} of {len(values)} records, expected in all")
    characters: defaultdict[str, int] = defaultdict(int)
    for record, value in zip(dataset.records, values, strict=True):
        characters[cast("str", value)] += len(record.content)
    if len(characters) < clients:
        raise ConfigError(
            f"column '{column}' has {len(characters)} distinct values, expected at least clients = {clients}"
        )
    chosen = sorted(sorted(characters, key=lambda value: (-characters[value], value))[:clients])
    notes: list[str] = []
    if len(characters) > clients:
        part = sum(characters[value] for value in chosen) / max(1, sum(characters.values()))
        notes.append(
            f"column '{column}' has {len(characters)} distinct values; "
            f"the {clients} with most text take part, {part:.0%} of all characters"
        )
    # As flwr-datasets' NaturalIdPartitioner, which takes 6 ms a client and a second to import.
    shares: dict[str, list[int]] = {value: [] for value in chosen}
    for index, value in enumerate(values):
        if (share := shares.get(cast("str", value))) is not None:
            share.append(index)
    names = _names_of(chosen)
    notes.extend(_renamed(column, chosen, names))
    held_out = held_out_by_value(dataset.column(column, held_out=True), chosen)
    if dataset.held_out and not any(held_out):
        held_out = held_out_by_share(*_without_classes(dataset, list(shares.values())))
        notes.append(f"column '{column}' names no client in the held-out split, which is shared out among all")
    return _partition_of(dataset, names, list(shares.values()), held_out, notes)


def _without_classes(dataset: Dataset, shares: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For `held_out_by_share`, of data whose records have no classes."""
    return np.zeros(len(dataset.held_out), np.int64), np.array([[len(share)] for share in shares], np.int64)


def _partition_of(
    dataset: Dataset,
    names: Sequence[str],
    shares: Sequence[Sequence[int]],
    held_out: Sequence[Sequence[int]],
    notes: Sequence[str],
) -> Partition:
    """The shares of these clients, as indices of records and of held-out ones.

    Raises:
        ConfigError: a client gets no record.
    """
    for name, share in zip(names, shares, strict=True):
        if not share:
            raise ConfigError(f"client '{name}' gets no record, expected at least 1; take fewer clients or other skew")
    if dataset.held_out and (without := [name for name, part in zip(names, held_out, strict=True) if not part]):
        more = f" and {len(without) - _MOST_TOLD} more" if len(without) > _MOST_TOLD else ""
        told = ", ".join(without[:_MOST_TOLD]) + more
        notes = (*notes, f"the held-out split has no record of {told}: plait holds out their last ones")
    return Partition(
        tuple(
            ClientShare(
                name,
                tuple(dataset.records[index] for index in share),
                tuple(dataset.held_out[index] for index in part),
            )
            for name, share, part in zip(names, shares, held_out, strict=True)
        ),
        tuple(notes),
    )


def _names_of(values: Sequence[str]) -> list[str]:
    """A name for each value that a client may have (`is_client_name`): the value itself where it may; all different."""
    names: list[str] = []
    taken: set[str] = set()
    for number, value in enumerate(values):
        stem = _cut(nearest_name(value), MAX_NAME_BYTES).strip(".-")
        stem = stem if is_client_name(stem) else f"client-{number:02}"
        name, suffix = stem, 1
        while name.casefold() in taken:
            suffix += 1
            name = f"{_cut(stem, MAX_NAME_BYTES - len(str(suffix)) - 1)}-{suffix}"
        taken.add(name.casefold())
        names.append(name)
    return names


def _renamed(column: str, values: Sequence[str], names: Sequence[str]) -> list[str]:
    """Says which values could not be names as they are."""
    changed = [
        f"{value[:_LONGEST_TOLD]!r} became {name}" for value, name in zip(values, names, strict=True) if value != name
    ]
    more = f" and {len(changed) - _MOST_TOLD} more" if len(changed) > _MOST_TOLD else ""
    told = f"client names from column '{column}' simplified: {', '.join(changed[:_MOST_TOLD])}{more}"
    return [told] if changed else []


def _cut(text: str, most_bytes: int) -> str:
    return text.encode()[:most_bytes].decode(errors="ignore")


def _drawn(dataset: Dataset, scheme: Scheme, *, clients: int, seed: int) -> Partition:
    """A partition by one of flwr-datasets' partitioners."""
    groups, group_names = _groups(dataset, scheme)
    # The partitioners cut contiguous runs, of all records or of a class; in random order a run is a random sample.
    order = _generator(seed, "order").permutation(len(dataset.records))
    with _quiet():
        partitioner = cast("Callable[..., Partitioner]", scheme.kind.make)(clients, scheme.argument, seed)
        try:
            shares = _run(partitioner, order, groups)
        except (ValueError, ZeroDivisionError) as error:  # the latter for shards smaller than one record
            raise ConfigError(_impossible(dataset, scheme, clients)) from error
    notes: list[str] = []
    left_out = len(dataset.records) - sum(len(share) for share in shares)
    if left_out:
        reached = {int(groups[index]) for share in shares for index in share}
        absent = [name for group, name in enumerate(group_names) if group not in reached]
        classes = f", among them every record of {', '.join(absent[:8])}" if absent else ""
        notes.append(f"{scheme} leaves {left_out} of {len(dataset.records)} records to no client{classes}")
    return _partition_of(dataset, _numbered(clients), shares, _held_out_shares(dataset, shares), notes)


def _held_out_shares(dataset: Dataset, shares: Sequence[Sequence[int]]) -> list[list[int]]:
    """For each client, the indices of its held-out records."""
    if dataset.kind is not RecordKind.LABEL:
        return held_out_by_share(*_without_classes(dataset, shares))
    index_of = {label: index for index, label in enumerate(dataset.labels)}
    trained = np.zeros((len(shares), len(index_of)), np.int64)
    for client, share in enumerate(shares):
        for index in share:
            trained[client, index_of[dataset.records[index].label]] += 1
    return held_out_by_share(np.array([index_of[record.label] for record in dataset.held_out], np.int64), trained)


def _by_function(dataset: Dataset, scheme: Scheme, clients: int, seed: int) -> Partition:
    """What a user's own function makes, checked: a share for each client, and no record in two of them."""
    what = f"partition '{scheme.kind.name}'"
    with located_errors(f"{what} failed"):
        made = cast("Callable[..., object]", scheme.kind.split)(dataset, clients, seed)
        if isinstance(made, Mapping):
            named = cast("Mapping[object, Iterable[object]]", made)
            names, parts = _names_of([str(name) for name in named]), list(named.values())
        else:
            parts = list(cast("Iterable[Iterable[object]]", made))
            names = _numbered(len(parts))
        shares = [sorted(operator.index(cast("SupportsIndex", index)) for index in part) for part in parts]
    if len(shares) != clients:
        raise ConfigError(f"{what} gave {len(shares)} shares, expected clients = {clients}")
    taken = [index for share in shares for index in share]
    if len(set(taken)) != len(taken):
        raise ConfigError(f"{what} gives a record to two clients, expected each index once")
    if taken and not 0 <= min(taken) <= max(taken) < len(dataset.records):
        raise ConfigError(f"{what} gave an index beyond the data, expected 0 to {len(dataset.records) - 1}")
    left_out = len(dataset.records) - len(taken)
    notes = [f"{scheme} leaves {left_out} of {len(dataset.records)} records to no client"] if left_out else []
    return _partition_of(dataset, names, shares, _held_out_shares(dataset, shares), notes)


def _numbered(clients: int) -> list[str]:
    return [f"client-{number:0{len(str(max(clients - 1, 10)))}}" for number in range(clients)]


def _groups(dataset: Dataset, scheme: Scheme) -> tuple[NDArray[np.int64], Sequence[str]]:
    """The class of every record, (records,), and the classes' names."""
    if scheme.kind.by_label:
        if dataset.kind is not RecordKind.LABEL:
            raise ConfigError(
                f"partition is '{scheme}' and data '{dataset.name}' has no labels; "
                "expected 'text' and 'label' in each record"
            )
        if scheme.kind.counts_classes and cast("int", scheme.argument) > len(dataset.labels):
            raise ConfigError(
                f"partition is '{scheme}', expected at most the {len(dataset.labels)} classes of the data"
            )
        index_of = {label: index for index, label in enumerate(dataset.labels)}
        return np.array([index_of[record.label] for record in dataset.records], np.int64), dataset.labels
    return np.zeros(len(dataset.records), np.int64), ()


def _run(partitioner: Partitioner, rows: NDArray[np.int64], groups: NDArray[np.int64]) -> list[list[int]]:
    """Record indices of each client, ascending, from a table that holds indices and groups alone (in memory)."""
    from datasets import Dataset as Table

    partitioner.dataset = Table.from_dict({"index": rows.tolist(), "group": groups[rows].tolist()})
    count = partitioner.num_partitions
    return [sorted(cast("list[int]", partitioner.load_partition(k)["index"])) for k in range(count)]


def _impossible(dataset: Dataset, scheme: Scheme, clients: int) -> str:
    count = f"{len(dataset.records)} records over {clients} clients"
    return f"{scheme} {scheme.kind.fails.format(count=count)}"


def _generator(seed: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng([seed, *purpose.encode()])


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Hide the progress bars and warnings of flwr-datasets; what matters in them becomes an error or a note."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def held_out_by_value(values: Sequence[str | None], clients: Sequence[str]) -> list[list[int]]:
    """The records of each client.

    Args:
        values: of the held-out records in the column that tells the clients apart.

    Returns:
        For each client, the indices of its records, ascending.
    """
    parts: dict[str | None, list[int]] = {client: [] for client in clients}
    for index, value in enumerate(values):
        if value in parts:
            parts[value].append(index)
    return [parts[client] for client in clients]


def held_out_by_share(groups: NDArray[np.int64], trained: NDArray[np.int64]) -> list[list[int]]:
    """The records of each client.

    Args:
        trained: (clients, classes), the training records of each client by class.

    Returns:
        For each client, the indices of its records, ascending.
    """
    parts: list[list[int]] = [[] for _ in trained]
    for group in np.unique(groups):
        weights = trained[:, group].astype(np.float64)
        # No client trains on this class: it is shared out like all data.
        weights = weights if weights.any() else trained.sum(axis=1).astype(np.float64)
        shares = weights / weights.sum()
        given = np.zeros(len(parts))
        for count, index in enumerate(np.flatnonzero(groups == group), start=1):
            client = int(np.argmax(shares * count - given))
            given[client] += 1
            parts[client].append(int(index))
    return [sorted(part) for part in parts]


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
"""The contract of a partition scheme."""

"""Partitions by flwr-datasets' partitioners or a user's own function, and the held-out split in proportion to them."""

import contextlib
import io
import operator
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from plait.data import Dataset, RecordKind
from plait.errors import ConfigError
from plait.own_code import located_errors
from plait.simulation.scheme import MIN_RECORDS, Scheme

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner

Drawn: TypeAlias = tuple[list[str], list[list[int]], list[list[int]], list[str]]
"""Names of clients, the indices of each one's records and of its held-out ones, and notes for the user."""


def drawn(dataset: Dataset, scheme: Scheme, *, clients: int, seed: int) -> Drawn:
    """What one of flwr-datasets' schemes makes."""
    groups, group_names = _groups(dataset, scheme)
    # The partitioners cut contiguous runs, of all records or of a class; in random order a run is a random sample.
    order = np.random.default_rng([seed, *b"order"]).permutation(len(dataset.records))
    if scheme.kind.name == "iid":
        # As flwr-datasets' own, without 140 MB of libraries for the rest of the run.
        shares = [sorted(map(int, run)) for run in np.array_split(order, clients)]
    else:
        shares = _by_partitioner(dataset, scheme, order, groups, clients=clients, seed=seed)
    notes: list[str] = []
    left_out = len(dataset.records) - sum(len(share) for share in shares)
    if left_out:
        reached = {int(groups[index]) for share in shares for index in share}
        absent = [name for group, name in enumerate(group_names) if group not in reached]
        classes = f", among them every record of {', '.join(absent[:8])}" if absent else ""
        notes.append(f"{scheme} leaves {left_out} of {len(dataset.records)} records to no client{classes}")
    return _numbered(clients), shares, _held_out_shares(dataset, shares), notes


def _by_partitioner(
    dataset: Dataset, scheme: Scheme, order: NDArray[np.int64], groups: NDArray[np.int64], *, clients: int, seed: int
) -> list[list[int]]:
    with _quiet():
        partitioner = _partitioner(scheme, clients, seed)
        try:
            return _run(partitioner, order, groups)
        except (ValueError, ZeroDivisionError) as error:  # the latter for shards smaller than one record
            count = f"{len(dataset.records)} records over {clients} clients"
            raise ConfigError(f"{scheme} {scheme.kind.fails.format(count=count)}") from error


def _partitioner(scheme: Scheme, clients: int, seed: int) -> "Partitioner":
    # The import takes a second: it brings datasets, pandas and matplotlib.
    from flwr_datasets import partitioner as of

    given: Any = scheme.argument
    match scheme.kind.name:
        case "dirichlet":
            return of.DirichletPartitioner(
                clients, "group", alpha=given, min_partition_size=MIN_RECORDS, shuffle=False, seed=seed
            )
        case "pathological":
            # The first class in turn, the others at random, as in Li et al., arXiv 2102.02079.
            return of.PathologicalPartitioner(
                clients, "group", given, class_assignment_mode="first-deterministic", shuffle=False, seed=seed
            )
        case "shard":
            return of.ShardPartitioner(clients, "group", num_shards_per_partition=given, shuffle=False, seed=seed)
        case "linear":
            return of.LinearPartitioner(clients)
        case "square":
            return of.SquarePartitioner(clients)
        case _:
            return of.ExponentialPartitioner(clients)


def _held_out_shares(dataset: Dataset, shares: Sequence[Sequence[int]]) -> list[list[int]]:
    """For each client, the indices of its held-out records."""
    if dataset.kind is not RecordKind.LABEL:
        return held_out_by_share(*without_classes(dataset, shares))
    index_of = {label: index for index, label in enumerate(dataset.labels)}
    trained = np.zeros((len(shares), len(index_of)), np.int64)
    for client, share in enumerate(shares):
        for index in share:
            trained[client, index_of[dataset.records[index].label]] += 1
    return held_out_by_share(np.array([index_of[record.label] for record in dataset.held_out], np.int64), trained)


def by_function(dataset: Dataset, scheme: Scheme, *, clients: int, seed: int) -> Drawn:
    """What a user's own function makes, checked: a share for each client, and no record in two of them."""
    what = f"partition '{scheme.kind.name}'"
    with located_errors(f"{what} failed"):
        made = cast("Callable[..., object]", scheme.kind.split)(dataset, clients, seed)
        if isinstance(made, Mapping):
            named = cast("Mapping[object, Iterable[object]]", made)
            names, parts = [str(name) for name in named], list(named.values())
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
    return names, shares, _held_out_shares(dataset, shares), notes


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


def _run(partitioner: "Partitioner", rows: NDArray[np.int64], groups: NDArray[np.int64]) -> list[list[int]]:
    """Record indices of each client, ascending, from a table that holds indices and groups alone (in memory)."""
    from datasets import Dataset as Table

    partitioner.dataset = Table.from_dict({"index": rows.tolist(), "group": groups[rows].tolist()})
    count = partitioner.num_partitions
    return [sorted(cast("list[int]", partitioner.load_partition(k)["index"])) for k in range(count)]


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Hide the progress bars and warnings of flwr-datasets; what matters in them becomes an error or a note."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def without_classes(dataset: Dataset, shares: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For `held_out_by_share`, of data whose records have no classes."""
    return np.zeros(len(dataset.held_out), np.int64), np.array([[len(share)] for share in shares], np.int64)


def held_out_by_share(groups: NDArray[np.int64], trained: NDArray[np.int64]) -> list[list[int]]:
    """For each client, the indices of its held-out records, ascending.

    Args:
        groups: (held-out records,), the class of each.
        trained: (clients, classes), the training records of each client by class.
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

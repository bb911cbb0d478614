"""Partitions that are drawn from a seed, by classes or without, and those that a user's own function makes."""

from __future__ import annotations

import contextlib
import io
import operator
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, SupportsIndex, cast

import numpy as np
from numpy.typing import NDArray

from plait.data import Dataset, RecordKind
from plait.errors import ConfigError
from plait.own_code import located_errors
from plait.simulation.held_out import held_out_by_share
from plait.simulation.partition import Embed, Partition, names_of, partition_of, without_classes
from plait.simulation.scheme import Groups, Scheme

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner

_MIN_CLUSTERS = 8


def drawn(dataset: Dataset, scheme: Scheme, *, clients: int, seed: int, embed: Embed | None) -> Partition:
    """A partition by one of flwr-datasets' partitioners; see `plait.simulation.partition.partition`."""
    groups, group_names = _groups(dataset, scheme, clients=clients, seed=seed, embed=embed)
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
    return partition_of(dataset, _numbered(clients), shares, _held_out_shares(dataset, shares), notes)


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


def by_function(dataset: Dataset, scheme: Scheme, clients: int, seed: int) -> Partition:
    """What a user's own function makes, checked: a share for each client, and no record in two of them."""
    what = f"partition '{scheme.kind.name}'"
    with located_errors(f"{what} failed"):
        made = cast("Callable[..., object]", scheme.kind.split)(dataset, clients, seed)
        if isinstance(made, Mapping):
            named = cast("Mapping[object, Iterable[object]]", made)
            names, parts = names_of([str(name) for name in named]), list(named.values())
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
    return partition_of(dataset, names, shares, _held_out_shares(dataset, shares), notes)


def _numbered(clients: int) -> list[str]:
    return [f"client-{number:0{len(str(max(clients - 1, 10)))}}" for number in range(clients)]


def _groups(
    dataset: Dataset, scheme: Scheme, *, clients: int, seed: int, embed: Embed | None
) -> tuple[NDArray[np.int64], Sequence[str]]:
    """The class (or cluster) of every record, (records,), and the classes' names."""
    if scheme.kind.groups is Groups.CLUSTERS:
        if embed is None:
            raise ConfigError(f"partition is '{scheme}' and there is no encoder, expected one to embed the texts with")
        vectors = embed([record.content for record in dataset.records])
        count = min(max(_MIN_CLUSTERS, clients), len(dataset.records))
        from plait.simulation.clusters import k_means

        return k_means(vectors, count, _generator(seed, "clusters")), ()
    if scheme.kind.groups is Groups.LABELS:
        if dataset.kind is not RecordKind.LABEL:
            raise ConfigError(
                f"partition is '{scheme}' and data '{dataset.name}' has no labels; "
                "expected 'text' and 'label' in each record, or cluster:ALPHA, which needs none"
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

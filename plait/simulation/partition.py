"""Partition the records of one dataset over simulated clients.

The schemes are those of flwr-datasets, under the names that its users know, and one more: `cluster`, which gives
unlabelled text a topic skew. The result depends only on the dataset, the scheme, the number of clients and the seed.
Knows nothing of tokens, models or rounds.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from plait.data import Dataset, Record, RecordKind
from plait.errors import ConfigError, did_you_mean
from plait.simulation.clusters import k_means
from plait.trust.names import MAX_NAME_BYTES, is_client_name, nearest_name

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner

Embed = Callable[[Sequence[str]], NDArray[np.float32]]

DEFAULT_ALPHA = 0.5
_MAX_ALPHA = 1e6  # far beyond it a Dirichlet draw overflows

# A client with less cannot both train and hold something out.
_MIN_RECORDS = 2
_MIN_CLUSTERS = 8
# Changed names that are listed.
_MOST_TOLD = 4
_LONGEST_TOLD = 60


class SchemeName(StrEnum):
    """The partition schemes."""

    IID = "iid"
    """Equal shares, at random."""
    NATURAL = "natural"
    """One client for each value of a column."""
    DIRICHLET = "dirichlet"
    """Label skew: each class is shared out by a draw from Dirichlet(alpha); the lower alpha, the stronger the skew."""
    PATHOLOGICAL = "pathological"
    """Each client has this number of classes."""
    SHARD = "shard"
    """Records sorted by label are cut into shards, and each client gets some (McMahan et al., arXiv 1602.05629)."""
    LINEAR = "linear"
    """Quantity skew: client k gets a share proportional to k."""
    SQUARE = "square"
    """Quantity skew: proportional to k squared."""
    EXPONENTIAL = "exponential"
    """Quantity skew: proportional to e to the k."""
    CLUSTER = "cluster"
    """As dirichlet, with clusters of text embeddings instead of labels."""


_BY_LABEL = (SchemeName.DIRICHLET, SchemeName.PATHOLOGICAL, SchemeName.SHARD)
_FORMS: Mapping[SchemeName, str] = {
    SchemeName.NATURAL: "natural:COLUMN",
    SchemeName.DIRICHLET: "dirichlet:ALPHA",
    SchemeName.PATHOLOGICAL: "pathological:CLASSES",
    SchemeName.SHARD: "shard:SHARDS",
    SchemeName.CLUSTER: "cluster:ALPHA",
}


@dataclass(frozen=True)
class Scheme:
    """A partition scheme; ``str(scheme)`` is the form that `parse_partition` reads.

    Attributes:
        name: the scheme.
        column: the column of `natural`.
        alpha: concentration of `dirichlet` and `cluster`.
        count: classes per client (`pathological`), or shards (`shard`).
    """

    name: SchemeName
    column: str = ""
    alpha: float = DEFAULT_ALPHA
    count: int = 0

    def __str__(self) -> str:
        match self.name:
            case SchemeName.NATURAL:
                return f"{self.name}:{self.column}"
            case SchemeName.DIRICHLET | SchemeName.CLUSTER:
                return f"{self.name}:{repr(self.alpha).removesuffix('.0')}"
            case SchemeName.PATHOLOGICAL | SchemeName.SHARD:
                return f"{self.name}:{self.count}"
            case _:
                return self.name.value


@dataclass(frozen=True)
class ClientShare:
    """One simulated client's data.

    Attributes:
        name: the client's, safe as a file name and unique.
        records: its records, in the dataset's order.
    """

    name: str
    records: tuple[Record, ...]


@dataclass(frozen=True)
class Partition:
    """A partitioned dataset; no record is in two shares.

    Attributes:
        shares: one per client.
        notes: for the user, one sentence each: values or records that no client got.
    """

    shares: tuple[ClientShare, ...]
    notes: tuple[str, ...] = ()


def parse_partition(text: str) -> Scheme:
    """Read a scheme as the user writes it: ``iid``, ``natural:COLUMN``, ``dirichlet:0.5``, ``pathological:2`` ...

    Raises:
        ConfigError: an unknown scheme (the nearest is named), or a missing or impossible argument.
    """
    given, _, argument = (part.strip() for part in text.partition(":"))
    names = [name.value for name in SchemeName]
    if given.lower() not in names:
        hint = did_you_mean(given.lower(), names)
        raise ConfigError(f"partition is '{text}', expected one of {', '.join(names)}{hint}")
    name = SchemeName(given.lower())
    match name:
        case SchemeName.NATURAL:
            if not argument:
                raise ConfigError(f"partition is '{text}', expected the name of a column: {_FORMS[name]}")
            return Scheme(name, column=argument)
        case SchemeName.DIRICHLET | SchemeName.CLUSTER:
            return Scheme(name, alpha=_alpha(text, argument, name) if argument else DEFAULT_ALPHA)
        case SchemeName.PATHOLOGICAL | SchemeName.SHARD:
            if not re.fullmatch(r"[1-9][0-9]{0,8}", argument):
                raise ConfigError(f"partition is '{text}', expected a whole number above 0: {_FORMS[name]}")
            return Scheme(name, count=int(argument))
        case _:
            if argument:
                raise ConfigError(f"partition is '{text}', expected '{name}' alone")
            return Scheme(name)


def default_scheme(dataset: Dataset) -> Scheme:
    """The default scheme of a dataset: its natural column, else label skew, else IID."""
    if dataset.natural_column:
        return Scheme(SchemeName.NATURAL, column=dataset.natural_column)
    return Scheme(SchemeName.DIRICHLET if dataset.kind is RecordKind.LABEL else SchemeName.IID)


def partition(dataset: Dataset, scheme: Scheme, *, clients: int, seed: int, embed: Embed | None = None) -> Partition:
    """Partition a dataset.

    Random schemes assign record by record, even if neighbours in the dataset belong together: IID shares of a book's
    chapters each hold chapters from all over the book, in the book's order.

    Args:
        dataset: the records.
        scheme: how.
        clients: how many shares; `natural` takes the values with most text (in characters) where there are more.
        seed: of everything random.
        embed: texts to (len(texts), d) vectors; only `cluster` needs it.

    Raises:
        ConfigError: the dataset cannot be partitioned in this way for this many clients.
    """
    if len(dataset.records) < clients:
        raise ConfigError(
            f"data '{dataset.name}' has {len(dataset.records)} records, expected at least clients = {clients}"
        )
    if scheme.name is SchemeName.NATURAL:
        return _by_column(dataset, scheme.column, clients)
    groups, group_names = _groups(dataset, scheme, clients=clients, seed=seed, embed=embed)
    # The partitioners cut contiguous runs, of all records or of a class; in random order a run is a random sample.
    order = _generator(seed, "order").permutation(len(dataset.records))
    with _quiet():
        partitioner = _partitioner(scheme, clients=clients, seed=seed)
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
    names = [f"client-{number:0{len(str(max(clients - 1, 10)))}}" for number in range(clients)]
    return _partition_of(dataset, names, shares, notes)


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
    return _partition_of(dataset, names, list(shares.values()), [*notes, *_renamed(column, chosen, names)])


def _groups(
    dataset: Dataset, scheme: Scheme, *, clients: int, seed: int, embed: Embed | None
) -> tuple[NDArray[np.int64], Sequence[str]]:
    """The class (or cluster) of every record, (records,), and the classes' names."""
    if scheme.name is SchemeName.CLUSTER:
        if embed is None:
            raise ConfigError(f"partition is '{scheme}' and there is no encoder, expected one to embed the texts with")
        vectors = embed([record.content for record in dataset.records])
        count = min(max(_MIN_CLUSTERS, clients), len(dataset.records))
        return k_means(vectors, count, _generator(seed, "clusters")), ()
    if scheme.name in _BY_LABEL:
        if dataset.kind is not RecordKind.LABEL:
            raise ConfigError(
                f"partition is '{scheme}' and data '{dataset.name}' has no labels; "
                "expected 'text' and 'label' in each record, or cluster:ALPHA, which needs none"
            )
        if scheme.name is SchemeName.PATHOLOGICAL and scheme.count > len(dataset.labels):
            raise ConfigError(
                f"partition is '{scheme}', expected at most the {len(dataset.labels)} classes of the data"
            )
        index_of = {label: index for index, label in enumerate(dataset.labels)}
        return np.array([index_of[record.label] for record in dataset.records], np.int64), dataset.labels
    return np.zeros(len(dataset.records), np.int64), ()


def _partitioner(scheme: Scheme, *, clients: int, seed: int) -> Partitioner:
    # A second to import: it brings datasets, pandas and matplotlib.
    from flwr_datasets import partitioner as known

    match scheme.name:
        case SchemeName.DIRICHLET | SchemeName.CLUSTER:
            return known.DirichletPartitioner(
                clients, "group", alpha=scheme.alpha, min_partition_size=_MIN_RECORDS, shuffle=False, seed=seed
            )
        case SchemeName.PATHOLOGICAL:
            # The first class in turn, the others at random, as in Li et al., arXiv 2102.02079.
            return known.PathologicalPartitioner(
                clients, "group", scheme.count, class_assignment_mode="first-deterministic", shuffle=False, seed=seed
            )
        case SchemeName.SHARD:
            return known.ShardPartitioner(
                clients, "group", num_shards_per_partition=scheme.count, shuffle=False, seed=seed
            )
        case SchemeName.LINEAR:
            return known.LinearPartitioner(clients)
        case SchemeName.SQUARE:
            return known.SquarePartitioner(clients)
        case SchemeName.EXPONENTIAL:
            return known.ExponentialPartitioner(clients)
        case SchemeName.IID | SchemeName.NATURAL:
            return known.IidPartitioner(clients)


def _run(partitioner: Partitioner, rows: NDArray[np.int64], groups: NDArray[np.int64]) -> list[list[int]]:
    """Record indices of each client, ascending, from a table that holds indices and groups alone (in memory)."""
    from datasets import Dataset as Table

    partitioner.dataset = Table.from_dict({"index": rows.tolist(), "group": groups[rows].tolist()})
    count = partitioner.num_partitions
    return [sorted(cast("list[int]", partitioner.load_partition(k)["index"])) for k in range(count)]


def _partition_of(
    dataset: Dataset, names: Sequence[str], shares: Sequence[Sequence[int]], notes: Sequence[str]
) -> Partition:
    for name, share in zip(names, shares, strict=True):
        if not share:
            raise ConfigError(f"client '{name}' gets no record, expected at least 1; take fewer clients or other skew")
    return Partition(
        tuple(
            ClientShare(name, tuple(dataset.records[index] for index in share))
            for name, share in zip(names, shares, strict=True)
        ),
        tuple(notes),
    )


def _impossible(dataset: Dataset, scheme: Scheme, clients: int) -> str:
    count = f"{len(dataset.records)} records to {clients} clients"
    match scheme.name:
        case SchemeName.DIRICHLET | SchemeName.CLUSTER:
            return f"{scheme} deals {count} and some get under {_MIN_RECORDS}, expected a larger alpha or fewer clients"
        case SchemeName.LINEAR | SchemeName.SQUARE | SchemeName.EXPONENTIAL:
            return f"{scheme} deals {count} and 'client-00' gets none, expected more records or fewer clients"
        case _:
            return f"{scheme} cannot deal {count}, expected more records in each class, or fewer clients"


def _alpha(text: str, argument: str, name: SchemeName) -> float:
    try:
        alpha = float(argument)
    except ValueError:
        alpha = math.nan
    if not (0 < alpha <= _MAX_ALPHA):
        raise ConfigError(f"partition is '{text}', expected a number above 0, at most {_MAX_ALPHA:.0f}: {_FORMS[name]}")
    return alpha


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
    told = f"names in column '{column}' that clients cannot have: {', '.join(changed[:_MOST_TOLD])}{more}"
    return [told] if changed else []


def _cut(text: str, most_bytes: int) -> str:
    return text.encode()[:most_bytes].decode(errors="ignore")


def _generator(seed: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng([seed, *purpose.encode()])


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Hide the progress bars and warnings of flwr-datasets; what matters in them becomes an error or a note."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield

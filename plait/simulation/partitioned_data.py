"""A run's data, loaded and partitioned over its simulated clients."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial

from plait.config import RunConfig, config_from_table
from plait.data import BUILTINS, Dataset, Progress
from plait.errors import ConfigError, DataError
from plait.ledger.events import DataUsed
from plait.settings.table import parts_of
from plait.simulation.loaded import Loaded
from plait.simulation.partition import Partition, partition
from plait.simulation.scheme import SCHEMES, Scheme, default_scheme, likely_clients, parse_partition

# Clients that a column names, where the user does not say how many take part.
_MOST_NAMED = 32


@dataclass(frozen=True, eq=False)
class PartitionedData:
    """The data of all clients, and the scheme by which they are partitioned, as given or by default."""

    dataset: Dataset
    scheme: Scheme
    partition: Partition

    @cached_property
    def used(self) -> DataUsed:
        """The data as the ledger records them."""
        data = self.dataset
        return DataUsed(
            name=data.name, fingerprint=data.fingerprint, records=len(data.records), held_out=len(data.held_out)
        )


def load_partitioned(
    config: RunConfig,
    dataset: Dataset | None = None,
    *,
    loaded: Loaded | None = None,
    progress: Progress = lambda _: None,
) -> PartitionedData:
    """Load a run's data and partition it over its clients, by default as many as a column names, up to 32."""
    if config.without_clients:
        return _without_clients(config, partial(load_partitioned, dataset=dataset, loaded=loaded, progress=progress))
    if dataset is None:
        dataset = (loaded or Loaded()).dataset(config, progress)
    for label in dataset.labels:
        if "," in label:
            raise DataError(f"label {label!r} of {dataset.name}: labels must not contain commas")
    if config.group:
        dataset.check_column(config.group, "group")
    scheme = parse_partition(config.partition) if config.partition else default_scheme(dataset)
    parts = partition(dataset, scheme, clients=_clients(config, dataset, scheme), seed=config.seed)
    count = len(parts.shares)
    notes = [f"partition {scheme} over {count:,} client{'' if count == 1 else 's'}"]
    if count == 1:
        notes.append("one client has nobody to average with: it trains alone, packed and sent as in a federation")
    if not config.partition and (column := likely_clients(dataset, scheme)):
        notes.append(f"column '{column}' looks like clients: --partition natural:{column}")
    return PartitionedData(dataset, scheme, replace(parts, notes=(*notes, *parts.notes)))


def _clients(config: RunConfig, dataset: Dataset, scheme: Scheme) -> int:
    """How many clients there are: as given, or as many as a column names."""
    if "clients" in config.model_fields_set or scheme.kind is not SCHEMES["natural"]:
        return config.clients
    # A built-in's own column is no choice of the user's.
    is_chosen = config.partition or config.data not in BUILTINS
    named = len(set(dataset.column(scheme.column)) - {None})
    return max(1, min(named, _MOST_NAMED if is_chosen else config.clients))


def names_in(config: RunConfig) -> tuple[str, ...]:
    """The clients that withdrew, which the settings leave out."""
    return tuple(parts_of(config.without_clients))


def _without_clients(config: RunConfig, load: Callable[[RunConfig], PartitionedData]) -> PartitionedData:
    """Partition the data as before, and leave clients out: the others' shares stay as they were."""
    names = names_in(config)
    given = {name: getattr(config, name) for name in config.model_fields_set} | {"without_clients": ""}
    if "clients" in given:
        given["clients"] = config.clients + len(names)
    data = load(config_from_table(given, where="the data with all clients"))
    known = {share.name for share in data.partition.shares}
    if unknown := sorted(set(names) - known):
        raise ConfigError(
            f"without-clients has '{unknown[0]}', expected clients of the data: {', '.join(sorted(known))[:200]}"
        )
    shares = tuple(share for share in data.partition.shares if share.name not in names)
    if not shares:
        raise ConfigError("without-clients names all clients of the data: leave at least one")
    whole = data.dataset
    left = Dataset.of(
        whole.name,
        whole.kind,
        [record for share in shares for record in share.records],
        natural_column=whole.natural_column,
        held_out=[record for share in shares for record in share.held_out],
        notes=whole.notes,
    )
    return replace(data, dataset=left, partition=replace(data.partition, shares=shares))

"""A run's data, loaded and partitioned over its simulated clients."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from plait.config import RunConfig
from plait.data import Dataset
from plait.errors import DataError
from plait.rounds.events import DataUsed
from plait.simulation.loaded import Loaded
from plait.simulation.partition import Partition, partition
from plait.simulation.scheme import Groups, Scheme, default_scheme, parse_partition
from plait.training.bases import Progress
from plait.training.embeddings import minilm_embedder


@dataclass(frozen=True, eq=False)
class PartitionedData:
    """The data of all clients.

    Attributes:
        scheme: the partition scheme, as given or by default.
    """

    dataset: Dataset
    scheme: Scheme
    partition: Partition

    @cached_property
    def used(self) -> DataUsed:
        """What the ledger says of the data."""
        dataset = self.dataset
        return DataUsed(
            name=dataset.name,
            fingerprint=dataset.fingerprint,
            records=len(dataset.records),
            held_out=len(dataset.held_out),
        )


def load_partitioned(
    config: RunConfig,
    dataset: Dataset | None = None,
    *,
    loaded: Loaded | None = None,
    progress: Progress = lambda _: None,
) -> PartitionedData:
    """Load a run's data and partition it over its clients.

    Args:
        config: settings of the run.
        dataset: the data, if they are in memory already.
        loaded: data that earlier runs of this process loaded.
        progress: called before each slow step.

    Raises:
        ConfigError: the data cannot be partitioned this way.
        DataError: the data cannot be read, or a label has a comma in its name.
    """
    if dataset is None:
        found = loaded or Loaded()
        dataset = found.dataset(config.data, columns=config.columns, split=config.split, progress=progress)
    for label in dataset.labels:
        if "," in label:
            raise DataError(f"label {label!r} of {dataset.name} has a comma in it, expected a name without one")
    scheme = parse_partition(config.partition) if config.partition else default_scheme(dataset)
    embed = minilm_embedder(progress) if scheme.kind.groups is Groups.CLUSTERS else None
    parts = partition(dataset, scheme, clients=config.clients, seed=config.seed, embed=embed)
    return PartitionedData(dataset, scheme, parts)

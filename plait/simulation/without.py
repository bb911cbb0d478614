"""The clients' data without those of clients that withdrew: the others' shares stay as they were."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from plait.config import RunConfig, config_from_table
from plait.data import Dataset
from plait.errors import ConfigError
from plait.settings.table import parts_of
from plait.simulation.partitioned_data import PartitionedData


def names_in(config: RunConfig) -> tuple[str, ...]:
    """The clients that the settings leave out."""
    return tuple(parts_of(config.without_clients))


def without_clients(config: RunConfig, load: Callable[[RunConfig], PartitionedData]) -> PartitionedData:
    """Partition the data as before, and leave clients out.

    Raises:
        ConfigError: there is no such client, or no other.
    """
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
        raise ConfigError("without-clients names all clients of the data, expected some to be left")
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

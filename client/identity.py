"""Who a client is: its base, its data and its memory, from the configuration of its node and of the run.

A node with ``data`` in its configuration has data of its own; ``name`` is what it is called, ``state`` a directory
where it keeps what must outlive the process, ``key`` the file of the key that signs its updates, ``max-rank`` the
largest rank that it takes (0: any). A node with ``partition-id`` is one client of a simulation: it takes its part of
the run's data.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import lru_cache
from pathlib import Path

from flwr.app import Context

from client.disk_memory import DiskMemory
from client.memory import ContextMemory, SimulatedMemory
from client.own_data import own_dataset
from client.state_directory import memory_folder
from plait.config import RunConfig, config_from_table
from plait.data import Dataset, RecordKind, histogram
from plait.errors import ConfigError
from plait.rounds.memory import Memory
from plait.rounds.participant import Participant
from plait.rounds.run_directory import RunDirectory
from plait.simulation.clients import client_name, resident_base, simulated_client
from plait.training.bridge import load_own_trainer
from plait.training.local_model import PeftLocalModel
from plait.trust.keys import NodeKey


def participant_of(context: Context) -> Participant:
    """The participant that a Flower context stands for.

    Raises:
        ConfigError: the configuration makes no sense.
        DataError: the data cannot be read.
    """
    config = config_from_table(context.run_config, where="run configuration")
    own_data, index = context.node_config.get("data"), context.node_config.get("partition-id")
    if own_data is not None:
        name = str(context.node_config.get("name") or Path(str(own_data)).stem)
        client = _own_client(config, str(own_data), name)
        max_rank = context.node_config.get("max-rank", 0)
        return Participant(
            name,
            client,
            _own_memory(context, name),
            max_rank=max_rank if isinstance(max_rank, int) else 0,
            sign=_signer(context),
        )
    if isinstance(index, int):
        name = client_name(config, index)
        memory = SimulatedMemory(context, RunDirectory(Path(config.out)).client_memory(name))
        max_rank = config.ranks[index % len(config.ranks)]
        return Participant(name, simulated_client(config, index), memory, max_rank=max_rank)
    raise ConfigError("the node's configuration has neither 'data' nor 'partition-id', expected one of them")


@lru_cache(maxsize=4)
def _own_client(config: RunConfig, data: str, name: str) -> PeftLocalModel:
    dataset = own_dataset(data)
    return PeftLocalModel(
        resident_base(config),
        name,
        dataset.records,
        kind=dataset.kind,
        histogram=_histogram(dataset, config.label_names),
        own_trainer=load_own_trainer(config.trainer) if config.trainer else None,
    )


def _histogram(dataset: Dataset, labels: Collection[str]) -> dict[str, int]:
    """How many records have each label that the run names; nothing else of a node's own data may leave it."""
    if dataset.kind is not RecordKind.LABEL:
        return {}
    return {name: count for name, count in histogram(dataset.records, dataset).items() if name in labels}


def _own_memory(context: Context, name: str) -> Memory:
    state = context.node_config.get("state")
    return DiskMemory(memory_folder(Path(str(state)), context.run_id, name)) if state else ContextMemory(context)


def _signer(context: Context) -> Callable[[bytes], bytes] | None:
    key = context.node_config.get("key")
    return _load_key(str(key)).sign if key else None


@lru_cache(maxsize=4)
def _load_key(path: str) -> NodeKey:
    return NodeKey.load(Path(path))

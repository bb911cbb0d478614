"""Who a client is: its base, its data and its memory, from the configuration of its node and of the run.

A node with ``data`` in its configuration has data of its own; ``name`` is what it is called, ``state`` a directory
where it keeps what must outlive the process, ``key`` the file of the key that signs its updates, ``max-rank`` the
largest rank that it takes (0: any), ``policy`` the file of its operator's limits, ``trainer`` the local trainer that it
allows. A node with ``partition-id`` is one client of a simulation: it takes its part of
the run's data.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from flwr.app import Context

from client.disk_memory import DiskMemory
from client.memory import ContextMemory, SimulatedMemory
from client.own_data import own_dataset
from client.state_directory import memory_folder
from plait.config import RunConfig, config_from_table
from plait.data import Dataset, RecordKind, histogram
from plait.errors import ConfigError, PolicyError
from plait.flower.rules import ALL_RULES
from plait.plan import rule_of, terms_of
from plait.policy import Policy, load_policy
from plait.rounds.memory import Memory
from plait.rounds.participant import Participant
from plait.rounds.run_directory import RunDirectory
from plait.rounds.terms import Terms
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
        allowed = str(context.node_config.get("trainer", ""))
        if config.trainer != allowed:
            raise PolicyError(
                f"the run trains with '{config.trainer or 'plait itself'}', but this node allows "
                f"'{allowed or 'plait itself'}', expected its operator to name the run's trainer"
            )
        max_rank = context.node_config.get("max-rank", 0)
        max_rank = max_rank if isinstance(max_rank, int) else 0
        policy = _policy(str(context.node_config.get("policy", "")))
        return Participant(
            name,
            _own_client(config, str(own_data), name),
            _own_memory(context, name),
            max_rank=max_rank,
            sign=_signer(context),
            max_task_bytes=policy.max_task_bytes,
            terms=_terms(config, name, max_rank, policy),
        )
    if isinstance(index, int):
        name = client_name(config, index)
        memory = SimulatedMemory(context, RunDirectory(Path(config.out)).client_memory(name))
        max_rank = config.ranks[index % len(config.ranks)]
        terms = _terms(config, name, max_rank, None)
        return Participant(name, simulated_client(config, index), memory, max_rank=max_rank, terms=terms)
    raise ConfigError("the node's configuration has neither 'data' nor 'partition-id', expected one of them")


def _terms(config: RunConfig, name: str, max_rank: int, policy: Policy | None) -> Terms:
    return replace(_terms_of_all(config, max_rank, policy), client=name)


@lru_cache(maxsize=64)
def _terms_of_all(config: RunConfig, max_rank: int, policy: Policy | None) -> Terms:
    """The terms but for the client's name: a simulation has many clients."""
    rule = rule_of(config, ALL_RULES)
    return terms_of(config, resident_base(config).directory, rule, client="", max_rank=max_rank, policy=policy)


@lru_cache(maxsize=4)
def _policy(path: str) -> Policy:
    return load_policy(Path(path) if path else None)


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

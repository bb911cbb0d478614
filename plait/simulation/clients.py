"""Simulated clients: a run's data dealt out, every part with the one resident base of this process.

What is slow to make (the base, the partition, tokenised examples) is kept until another run begins.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

from plait.config import RunConfig
from plait.data import Dataset, cache_directory, histogram, load_dataset
from plait.errors import PlaitError
from plait.rounds.local_model import Trained, TrainJob
from plait.simulation.gathering import Gathering
from plait.simulation.partition import Partition, Scheme, SchemeName, default_scheme, parse_partition, partition
from plait.simulation.remembered import RememberedLosses
from plait.training.bases import Progress, locate_base, quiet_libraries
from plait.training.bridge import load_own_trainer
from plait.training.device import choose_compute, use_threads
from plait.training.embeddings import minilm_embedder
from plait.training.local_model import PeftLocalModel, train_jobs
from plait.training.resident import ResidentBase

_MODELS_KEPT = 4096


@lru_cache(maxsize=1)
def resident_base(config: RunConfig) -> ResidentBase:
    """The base of this process, on the device that the configuration names."""
    quiet_libraries()
    use_threads(config.threads)
    located = locate_base(config.base, revision=config.revision)
    compute = choose_compute(config.device, config.dtype)
    return ResidentBase(
        located.directory,
        located.reference.fingerprint,
        compute,
        seq_len=config.seq_len,
        adapter_in_float32=bool(config.trainer),
    )


def scheme_of(config: RunConfig, dataset: Dataset) -> Scheme:
    """How the data is dealt out: as asked, or as fits the data."""
    return parse_partition(config.partition) if config.partition else default_scheme(dataset)


def deal(config: RunConfig, *, progress: Progress = lambda _: None) -> tuple[Dataset, Partition]:
    """Load a run's data and deal it out to its clients.

    Raises:
        ConfigError: the data cannot be dealt out this way.
        DataError: the data cannot be read.
    """
    dataset = load_dataset(config.data, cache=cache_directory(), progress=progress)
    scheme = scheme_of(config, dataset)
    embed = minilm_embedder(progress) if scheme.name is SchemeName.CLUSTER else None
    dealt = dataset, partition(dataset, scheme, clients=config.clients, seed=config.seed, embed=embed)
    _latest.clear()
    # The command that dealt with a default writes down which it was.
    for name in (config.partition, str(scheme)):
        _latest[config.data, name, config.clients, config.seed] = dealt
    return dealt


# What was dealt out last: the command deals to see that it can be done, the clients of its run take the same.
_latest: dict[tuple[str, str, int, int], tuple[Dataset, Partition]] = {}


def _dealt(config: RunConfig) -> tuple[Dataset, Partition]:
    return _latest.get((config.data, config.partition, config.clients, config.seed)) or deal(config)


def client_name(config: RunConfig, index: int) -> str:
    """What the client with this partition number is called."""
    return _dealt(config)[1].shares[index].name


def simulated_client(config: RunConfig, index: int) -> PeftLocalModel:
    """The client with this partition number."""
    return _clients(config)(index)


@lru_cache(maxsize=1)
def _clients(config: RunConfig) -> Callable[[int], PeftLocalModel]:
    """The clients of one run: those of the run before hold its base, and are let go with it."""
    return lru_cache(maxsize=_MODELS_KEPT)(partial(_client, config))


def _client(config: RunConfig, index: int) -> PeftLocalModel:
    dataset, dealt = _dealt(config)
    share = dealt.shares[index]
    return PeftLocalModel(
        resident_base(config),
        share.name,
        share.records,
        kind=dataset.kind,
        histogram=histogram(share.records, dataset, besides=scheme_of(config, dataset).column),
        own_trainer=load_own_trainer(config.trainer) if config.trainer else None,
        train_with=gathering().ask,
        recall=RememberedLosses(cache_directory()).recall,
    )


@lru_cache(maxsize=1)
def gathering() -> Gathering[TrainJob, Trained | PlaitError]:
    """Where the clients of this process ask for their training; whoever runs several at once has it done at once."""
    return Gathering(train_jobs)

"""A client with its own data: the base of the run, its records, and its state between tasks."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from client.settings import check_device, check_trainer
from plait.data import Dataset, RecordKind, histogram
from plait.policy import Policy
from plait.rounds.client_way import ClientContext
from plait.rounds.memory import ClientStore
from plait.rounds.participant import Participant
from plait.rounds.terms import AgreedTerms, DataJournal
from plait.run import Run
from plait.training.bridge import load_own_trainer
from plait.training.local_model import PeftLocalModel
from plait.training.resident import ResidentBase
from plait.trust.identity import NodeIdentity


@dataclass(frozen=True)
class OwnClient:
    """A client of one run, ready to work.

    Attributes:
        max_rank: the largest rank that it accepts; 0 for any.
        sign: makes the signatures of its updates.
        identity: by which other clients know it; None without a kit.
        journal: of its data, over all runs.
    """

    run: Run
    name: str
    model: PeftLocalModel
    terms: AgreedTerms
    policy: Policy
    max_rank: int = 0
    sign: Callable[[bytes], bytes] | None = None
    identity: Callable[[], NodeIdentity] | None = None
    journal: DataJournal | None = None

    def participant(self, memory: ClientStore) -> Participant:
        """Its participant."""
        speaker = ClientContext(
            self.name, memory, sign=self.sign, terms=self.terms, identity=self.identity, journal=self.journal
        )
        return Participant(
            self.name,
            self.model,
            memory,
            max_rank=self.max_rank,
            max_task_bytes=self.policy.max_task_bytes,
            terms=self.terms,
            way=self.run.client_way(speaker),
        )


class KeptBase:
    """The base of the newest run, kept in memory for the next one if that has the same."""

    def __init__(self) -> None:
        self._base: ResidentBase | None = None

    def of(self, run: Run, devices: str = "") -> ResidentBase:
        """The run's base; takes the place of the one before if that is another."""
        found = run.load_base(devices)
        if self._base is None or self._base.identity != found.identity:
            if self._base is not None:
                found.adopt(self._base)
            self._base = found
        return self._base


def own_client(
    run: Run,
    dataset: Dataset,
    *,
    name: str,
    policy: Policy,
    max_rank: int = 0,
    trainer: str = "",
    sign: Callable[[bytes], bytes] | None = None,
    identity: Callable[[], NodeIdentity] | None = None,
    journal: DataJournal | None = None,
    kept: KeptBase | None = None,
    devices: str = "",
) -> OwnClient:
    """Prepare for a run; reads no base before the first task.

    Args:
        max_rank: the largest rank that it accepts; 0 for any.
        trainer: the local trainer that its operator allows; empty for plait's.
        identity: by which other clients know it; None without a kit.
        devices: to compute on, such as ``cuda:0,cuda:1``; by default what the run's settings name.

    Raises:
        PolicyError: the run asks for more than the policy allows, or names another trainer.
        ConfigError: this machine does not support it, or several devices are given for a trainer.
    """
    config = run.config
    check_trainer(config.trainer, trainer)
    check_device(devices, trainer)
    # Problems that only the base reveals are reported before a round waits for this node.
    terms = run.terms(name, max_rank=max_rank, policy=policy)
    model = PeftLocalModel(
        (kept or KeptBase()).of(run, devices),
        name,
        dataset.records,
        held_out=dataset.held_out,
        kind=dataset.kind,
        histogram=_histogram(dataset, config.label_names),
        own_trainer=load_own_trainer(trainer) if trainer else None,
    )
    return OwnClient(run, name, model, terms, policy, max_rank, sign, identity, journal)


def _histogram(dataset: Dataset, labels: Collection[str]) -> dict[str, int]:
    """Number of records with each label of the run; nothing else about a node's own data may leave it."""
    if dataset.kind is not RecordKind.LABEL:
        return {}
    return {name: count for name, count in histogram(dataset.records, dataset).items() if name in labels}

"""Paired hooks around a client's training, in the order of a list: run forward before it and backward after it.

A hook changes the starting point of training or the values carried into it (`before`), then the outgoing delta
(`after`), and may keep a value from round to round. The last hook of the list is nearest to training: it sees the delta
first. Knows no particular hook; `plait.rounds.participant` lists them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from plait.adapters import AdapterState, subtract
from plait.rounds.local_model import Trained, TrainJob
from plait.rounds.memory import ClientState, Kept, Memory, recall_state
from plait.wire.envelope import EncodedDelta
from plait.wire.settings import Settings


@dataclass(frozen=True, eq=False)
class Outgoing:
    """The delta that a client is about to send.

    Attributes:
        delta: the part of it to send.
        encoded: the delta once a hook has packed it; None before.
        numbers: the delta as whole numbers on the job's grid, likewise.
        said: what the update says of its training, where a hook decides that; None for what the trainer reports.
    """

    trained: Trained
    delta: AdapterState
    encoded: EncodedDelta | None = None
    numbers: NDArray[np.int32] | None = None
    said: Mapping[str, float] | None = None


class Hook(Protocol):
    """A change to a client's round before training, and its counterpart afterwards."""

    @property
    def key(self) -> str:
        """Key of its value in the client's memory; empty for a hook without one."""
        ...

    def applies(self, settings: Settings) -> bool:
        """Whether it is active in a round with these settings."""
        ...

    def before(self, job: TrainJob, kept: Kept) -> TrainJob:
        """The job to train.

        Args:
            kept: the hook's value from the client's previous round; empty if there is none.
        """
        ...

    def after(self, job: TrainJob, kept: Kept, outgoing: Outgoing) -> tuple[Outgoing, Kept | None]:
        """The delta to send, and the value to keep for the next round; None keeps the current one.

        Args:
            outgoing: from the hooks after this one in the list.
        """
        ...


def before_training(hooks: Sequence[Hook], job: TrainJob, memory: Memory) -> TrainJob:
    """The job with the changes of all `hooks`."""
    found: dict[str, Kept] = {}
    for hook in hooks:
        if hook.applies(job.settings):
            found[hook.key] = _recall(memory, hook.key, job)
            job = hook.before(job, found[hook.key])
    return replace(job, kept=found)


def after_training(hooks: Sequence[Hook], job: TrainJob, trained: Trained, memory: Memory) -> Outgoing:
    """The delta to send; afterwards `memory` has the hooks' values for the next round."""
    outgoing = Outgoing(trained, subtract(trained.state, job.start))
    left: dict[str, Kept] = {}
    for hook in reversed(hooks):
        if hook.applies(job.settings):
            outgoing, kept = hook.after(job, job.kept[hook.key], outgoing)
            if kept is not None:
                left[hook.key] = replace(kept, round=job.settings.round)
    for key, kept in left.items():
        memory.save(key, ClientState(job.run_id, job.kept[key], kept).to_bytes())
    return outgoing


def _recall(memory: Memory, key: str, job: TrainJob) -> Kept:
    if not key:
        return Kept()
    given = recall_state(memory, key, job.run_id).given_in(job.settings.round)
    # A copy, so that the other value read with it need not stay in memory during training.
    return replace(given, arrays={name: array.copy() for name, array in given.arrays.items()})

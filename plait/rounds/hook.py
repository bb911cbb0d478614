"""Paired hooks around a client's training, in the order of a list: run forward before it and backward after it.

A hook changes where training starts or what is carried into it (`before`), then what is sent (`after`), and may keep a
value of its own from round to round. The last hook of the list is nearest to training: it sees the delta first. Knows
no hook of its own; `plait.rounds.participant` lists those that there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from plait.adapters import AdapterState, subtract
from plait.rounds.client_state import ClientState, Kept, recall_state
from plait.rounds.local_model import Trained, TrainJob
from plait.rounds.memory import Memory
from plait.wire.envelope import EncodedDelta
from plait.wire.settings import Settings


@dataclass(frozen=True, eq=False)
class Outgoing:
    """What a client is about to send.

    Attributes:
        trained: what training left.
        delta: what is to be sent of it.
        encoded: the delta once a hook has packed it; None before.
    """

    trained: Trained
    delta: AdapterState
    encoded: EncodedDelta | None = None


class Hook(Protocol):
    """What is done before training and undone, or made up for, after it."""

    @property
    def key(self) -> str:
        """What its value is kept under in the client's memory; empty for a hook that keeps nothing."""
        ...

    def applies(self, settings: Settings) -> bool:
        """Whether a round with these settings has it."""
        ...

    def before(self, job: TrainJob, kept: Kept) -> TrainJob:
        """The job as it is to be trained.

        Args:
            job: as the hooks before this one left it.
            kept: what the hook left in the client's round before; empty where there is none.
        """
        ...

    def after(self, job: TrainJob, kept: Kept, outgoing: Outgoing) -> tuple[Outgoing, Kept | None]:
        """What is to be sent, and what to keep for the next round; None to keep what there is.

        Args:
            job: as it was trained.
            kept: what `before` was given.
            outgoing: as the hooks behind this one in the list left it.
        """
        ...


def before_training(hooks: Sequence[Hook], job: TrainJob, memory: Memory) -> TrainJob:
    """The job with all that `hooks` add to it.

    Raises:
        EarlierFormatError: another version of plait wrote what is kept.
    """
    found: dict[str, Kept] = {}
    for hook in hooks:
        if hook.applies(job.settings):
            found[hook.key] = _recall(memory, hook.key, job)
            job = hook.before(job, found[hook.key])
    return replace(job, kept=found)


def after_training(hooks: Sequence[Hook], job: TrainJob, trained: Trained, memory: Memory) -> Outgoing:
    """What is to be sent; what hooks leave for the next round is in `memory` then."""
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
    # A copy, so that the other value that was read with it need not stay in memory while the job is trained.
    return replace(given, arrays={name: array.copy() for name, array in given.arrays.items()})

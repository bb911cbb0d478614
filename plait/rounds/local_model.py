"""What a client's rounds ask of the machine that trains: a base with the client's own data, and jobs for it.

Knows no torch: `plait.training.local_model` implements the protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from plait.adapters import AdapterSpec, AdapterState, Float32
from plait.rounds.client_state import Kept
from plait.rounds.evaluation import Judgement
from plait.rounds.moments import Moments
from plait.rounds.moved_base import UNMOVED, MovedBase
from plait.wire.envelope import Header
from plait.wire.settings import Settings


@dataclass(frozen=True)
class DataSize:
    """How much data a client has, in numbers only."""

    train_examples: int
    train_tokens: int
    held_out_examples: int
    held_out_tokens: int
    histogram: Mapping[str, int]


@dataclass(frozen=True)
class Coverage:
    """How much of a client's data one local training run visits.

    Attributes:
        examples: different ones.
        tokens: in these, each counted once.
    """

    examples: int
    tokens: int


@dataclass(frozen=True)
class Carried:
    """What a local training run is given from the client's rounds before.

    Attributes:
        moments: AdamW's; None to begin anew.
        drift: (size,) to be added to the adapter after every step; None for nothing.
    """

    moments: Moments | None = None
    drift: Float32 | None = None


@dataclass(frozen=True)
class Trained:
    """What a local training run leaves behind.

    Attributes:
        state: the adapter after it.
        loss: mean training loss over its steps, in nats.
        tokens: tokens that went through the model.
        seconds: how long it took.
        moments: AdamW's; None where somebody else's trainer keeps them to itself.
    """

    state: AdapterState
    loss: float
    tokens: int
    seconds: float
    moments: Moments | None = None


@dataclass(frozen=True, eq=False)
class TrainJob:
    """The training of one client in one round: all that the trainer needs, and what the answer is made from.

    Attributes:
        model: trains it.
        spec: of the adapter.
        settings: of the run and the round.
        received: the adapter as it was broadcast.
        start: the adapter that training starts from; not changed.
        carried: from the client's rounds before.
        base: how far the base has moved.
        header: of the broadcast; None for a job that answers no task.
        examples: that the client trains on.
        kept: what hooks left in the client's round before, by key.
    """

    model: LocalModel
    spec: AdapterSpec
    settings: Settings
    received: AdapterState
    start: AdapterState
    carried: Carried = Carried()
    base: MovedBase = UNMOVED
    header: Header | None = None
    examples: int = 0
    kept: Mapping[str, Kept] = field(default_factory=dict[str, Kept])

    @property
    def run_id(self) -> bytes:
        """The run's, 16 bytes; empty for a job that answers no task."""
        return self.header.run_id if self.header else b""


class LocalModel(Protocol):
    """A base with the client's own data beside it."""

    @property
    def base_fingerprint(self) -> bytes:
        """SHA-256 of the base, 32 bytes."""
        ...

    def prepare(self, spec_text: str) -> tuple[AdapterSpec, AdapterState]:
        """Derive spec and initial adapter from what a server sent.

        Raises:
            ConfigError: this base cannot carry such an adapter.
            PeerError: it is no spec.
        """
        ...

    def data_size(self, spec: AdapterSpec, settings: Settings) -> DataSize:
        """Count the data under these settings.

        Raises:
            TooLittleDataError: there is too little to train on and to hold some out.
            DataError: they do not fit the base or the task.
        """
        ...

    def coverage(self, spec: AdapterSpec, settings: Settings) -> Coverage:
        """How much of the data `train` would visit under these settings.

        Raises:
            DataError: there is too little.
        """
        ...

    def train(self, job: TrainJob) -> Trained:
        """Train on the client's training part.

        Raises:
            ConfigError: the base cannot be moved, or nothing of the adapter is to train.
            Abandoned: nobody waits for this any more.
        """
        ...

    def evaluate(self, spec: AdapterSpec, state: AdapterState, settings: Settings, base: MovedBase = ...) -> Judgement:
        """Held-out losses of `state`, on the base as it has moved, over the part that never trains.

        Raises:
            ConfigError: the base cannot be moved.
        """
        ...

"""What a client's rounds need of the machine that trains: a base with the client's own data, and training jobs.

Knows no torch: `plait.training.local_model` implements the protocol.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from plait.adapters import AdapterSpec, AdapterState, Float32
from plait.rounds.evaluation import SequenceLosses
from plait.rounds.memory import Kept
from plait.wire.envelope import Header
from plait.wire.settings import Settings

if TYPE_CHECKING:
    from plait.privacy.client import Charge


@dataclass(frozen=True)
class Moments:
    """AdamW's moments.

    Attributes:
        mean: (size,) running mean of the gradients, in the order of the adapter's flat buffer.
        square: (size,) running mean of their squares.
        steps: for each tensor of the adapter, the number of steps in its means. Both means start at 0, which the bias
            correction undoes by this number; tensors that train in alternate rounds have their own numbers.
    """

    mean: Float32
    square: Float32
    steps: tuple[int, ...]

    @classmethod
    def none(cls, size: int, tensors: int) -> "Moments":
        """Moments before any step."""
        return cls(np.zeros(size, np.float32), np.zeros(size, np.float32), (0,) * tensors)

    def kept(self) -> Kept:
        """The moments as stored."""
        steps = np.array(self.steps, np.uint32)
        return Kept(arrays={"mean": self.mean, "square": self.square, "steps": steps})

    @classmethod
    def of(cls, kept: Kept, size: int, tensors: int) -> "Moments | None":
        """The inverse of `kept`; None if there are none for an adapter of this size."""
        mean, square, steps = kept.vector("mean", size), kept.vector("square", size), kept.arrays.get("steps")
        if mean is None or square is None or steps is None or steps.shape != (tensors,):
            return None
        return cls(mean, square, tuple(int(count) for count in steps))


@dataclass(frozen=True)
class DataSize:
    """A client's amount of data, in numbers only.

    Attributes:
        left_out_examples: those without anything to learn from within it.
        repeated_examples: held-out examples that training text repeats.
        groups: that the training examples belong to; 0 where each is its own.
        identity: SHA-256 of the training examples, and of what decides on this machine how gradients are rounded; stays
            at the client.
    """

    train_examples: int
    train_tokens: int
    held_out_examples: int
    held_out_tokens: int
    histogram: Mapping[str, int]
    cut_examples: int = 0
    left_out_examples: int = 0
    repeated_examples: int = 0
    judge_examples: int = 0
    judge_tokens: int = 0
    groups: int = 0
    identity: bytes = b""


@dataclass(frozen=True)
class Coverage:
    """The part of a client's data that one local training run visits, and how long it trains on it at most."""

    examples: int
    tokens: int
    steps: int = 0
    trained_tokens: int = 0


@dataclass(frozen=True)
class Carried:
    """Values that a local training run receives from the client's earlier rounds.

    Attributes:
        movement: (size,) of the adapter that the client received, since the round before; None where it is not known.
        learning_rate: that the client found, as its round before ended; None to find it.
    """

    moments: Moments | None = None
    movement: Float32 | None = None
    learning_rate: float | None = None


NOTHING = Carried()


@dataclass(frozen=True)
class StepReport:
    """Figures of a local training run; None for those that a custom trainer does not report.

    Attributes:
        loss: mean over its steps of the mean loss a step, in nats.
        tokens: tokens that went through the model, padding not counted.
        first_loss: mean loss of the first step, before any training.
        slope: of that loss along `Carried.movement`, in nats; None without one.
        learning_rate: peak learning rate, the last where it follows slopes; None if none was found.
        shortened: fraction of the steps that were shortened.
    """

    loss: float
    tokens: int
    seconds: float
    first_loss: float | None = None
    slope: float | None = None
    learning_rate: float | None = None
    shortened: float | None = None
    reward: float | None = None
    refused_completions: int | None = None


@dataclass(frozen=True)
class Trained:
    """The result of a local training run; `moments` are AdamW's, None if a custom trainer does not expose them."""

    state: AdapterState
    report: StepReport
    moments: Moments | None = None


class DeltaGrid(Protocol):
    """Whole numbers that a delta is rounded to, right on average."""

    def rounded(self, delta: AdapterState) -> tuple[NDArray[np.int32], AdapterState]:
        """The numbers of a delta, and what they decode to."""
        ...


@dataclass(frozen=True, eq=False)
class TrainJob:
    """The training of one client in one round: the trainer's inputs, and the values that the answer needs.

    Attributes:
        grid: that the delta is rounded to; None where its codec encodes it.
        charge: of private steps, which are paid for; None for steps without noise.
    """

    model: "LocalModel"
    spec: AdapterSpec
    settings: Settings
    received: AdapterState
    start: AdapterState
    carried: Carried = NOTHING
    header: Header | None = None
    examples: int = 0
    kept: Mapping[str, Kept] = field(default_factory=dict[str, Kept])
    grid: DeltaGrid | None = None
    client: str = ""
    charge: "Charge | None" = None

    @property
    def run_id(self) -> bytes:
        """The run's, 16 bytes; empty for a job without a task."""
        return self.header.run_id if self.header else b""


class LocalModel(Protocol):
    """A base together with the client's own data."""

    @property
    def base_fingerprint(self) -> bytes:
        """SHA-256 of the base, 32 bytes."""
        ...

    def prepare(self, spec_text: str) -> tuple[AdapterSpec, AdapterState]:
        """Derive spec and initial adapter from a server's message."""
        ...

    def data_size(self, spec: AdapterSpec, settings: Settings) -> DataSize:
        """Count the data under these settings."""
        ...

    def coverage(self, spec: AdapterSpec, settings: Settings) -> Coverage:
        """How much of the data `train` would visit under these settings."""
        ...

    def train(self, job: TrainJob) -> Trained:
        """Train on the client's training part."""
        ...

    def evaluate(self, spec: AdapterSpec, state: AdapterState, settings: Settings) -> SequenceLosses:
        """Held-out losses of `state`, or those of the judge part where the settings are of such a task."""
        ...

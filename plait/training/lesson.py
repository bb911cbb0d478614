"""What a training learns from: the loss of each step's sequences, and what is done before a step for it.

The core's lesson is the cross-entropy of the examples' labels, or another loss that the settings name. An objective of
a feature has one of its own (`plait.training.teaching`). Knows no optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from plait.adapters import Float32, Task
from plait.training.examples import Example, Tokenizer
from plait.training.learner import LocalTraining
from plait.training.local_loss import CROSS_ENTROPY
from plait.training.losses import BatchLoss
from plait.training.step_memory import StepMemory
from plait.wire.settings import Settings


class StepLoss(Protocol):
    """The loss of sequences under a model.

    Attributes:
        is_sum: whether the loss of a batch is the sum of those of its parts.
        recomputes: whether blocks can be computed twice instead of kept.
        reported: of the last batch, where it is not its loss.
    """

    @property
    def is_sum(self) -> bool: ...  # noqa: D102

    @property
    def recomputes(self) -> bool: ...  # noqa: D102

    @property
    def reported(self) -> torch.Tensor | None: ...  # noqa: D102

    def __call__(self, batch: Sequence[Example], /) -> torch.Tensor:
        """The batch's loss; a scalar that gradients can be taken of."""
        ...


@dataclass(frozen=True)
class Taught:
    """What a lesson is made of.

    Attributes:
        start: (size,) the adapter that it begins with.
        memory: what gives way to fit a step into memory.
        tokenizer: of the base, for a lesson that reads what it writes.
    """

    settings: Settings
    start: Float32
    task: Task
    pad_token: int
    memory: StepMemory
    tokenizer: Tokenizer | None = None


class Lesson(Protocol):
    """What one training learns from.

    Attributes:
        without_dropout: whether the model is in evaluation mode.
        in_whole: whether what one replica is dealt is computed unit by unit, and none is cut.
        is_limited: whether a step may predict no more than its share of the loss.
    """

    without_dropout: bool
    in_whole: bool
    is_limited: bool

    def prepare(self, model: nn.Module, visited: Callable[[], Sequence[Example]]) -> None:
        """Compute what is needed before the first step."""
        ...

    def loss(self, model: nn.Module, parameters: Sequence[nn.Parameter]) -> StepLoss:
        """What is computed under the model, of whose adapter these are."""
        ...

    def draws(self, step: int) -> bool:
        """Whether a step has batches of its own."""
        ...

    def begin(self, batches: Sequence[Sequence[Example]], step: int) -> None:
        """Do what comes before a step on new batches."""
        ...

    def said(self, loss: float) -> float:
        """What a step reports."""
        ...

    def finished(self, done: LocalTraining) -> LocalTraining:
        """What the training reports."""
        ...


class CrossEntropy:
    """The lesson of supervised fine-tuning."""

    without_dropout = False
    in_whole = False
    is_limited = True

    def __init__(self, taught: Taught) -> None:
        self._taught = taught

    def prepare(self, model: nn.Module, visited: Callable[[], Sequence[Example]]) -> None:
        """Nothing."""

    def loss(self, model: nn.Module, parameters: Sequence[nn.Parameter]) -> StepLoss:
        """The cross-entropy."""
        del parameters
        taught = self._taught
        return BatchLoss(model, task=taught.task, pad_token=taught.pad_token, memory=taught.memory)

    def draws(self, step: int) -> bool:
        """Every step has."""
        del step
        return True

    def begin(self, batches: Sequence[Sequence[Example]], step: int) -> None:
        """Nothing."""

    def said(self, loss: float) -> float:
        """The loss."""
        return loss

    def finished(self, done: LocalTraining) -> LocalTraining:
        """As it is."""
        return done


def lesson_of(taught: Taught) -> Lesson:
    """The lesson of the loss that the settings name."""
    if taught.settings.loss == CROSS_ENTROPY:
        return CrossEntropy(taught)
    from plait.training.chosen_loss import ChosenLesson

    return ChosenLesson(taught)

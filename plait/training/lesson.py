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
from plait.training.local_loss import loss_named
from plait.training.losses import BatchLoss
from plait.training.memory import StepMemory
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


class Lesson:
    """What one training learns from: here the cross-entropy, or the loss that the settings name.

    Attributes:
        without_dropout: whether the model is in evaluation mode.
        in_whole: whether a step is computed unit by unit, and none is cut.
        is_limited: whether a step may predict no more than its share of the loss.
    """

    without_dropout = False
    in_whole = False
    is_limited = True

    def __init__(self, taught: Taught) -> None:
        self._taught = taught

    def prepare(self, model: nn.Module, visited: Callable[[], Sequence[Example]]) -> None:
        """Compute what is needed before the first step."""

    def loss(self, model: nn.Module, parameters: Sequence[nn.Parameter]) -> StepLoss:
        """What is computed under the model, of whose adapter these are."""
        taught, function = self._taught, loss_named(self._taught.settings.loss)
        if function is None:
            return BatchLoss(model, task=taught.task, pad_token=taught.pad_token, memory=taught.memory)
        from plait.training.chosen_loss import ChosenLoss

        return ChosenLoss(
            model,
            parameters,
            function,
            start=taught.start,
            task=taught.task,
            pad_token=taught.pad_token,
            name=taught.settings.loss,
        )

    def draws(self, step: int) -> bool:
        """Whether a step has batches of its own."""
        del step
        return True

    def begin(self, batches: Sequence[Sequence[Example]], step: int) -> None:
        """Do what comes before a step on new batches."""

    def said(self, loss: float) -> float:
        """What a step reports."""
        return loss

    def finished(self, done: LocalTraining) -> LocalTraining:
        """What the training reports."""
        return done

"""What a training learns from: the loss of each step's sequences, and what is done before a step for it.

The core's lesson is the cross-entropy of the examples' labels, or another loss that the settings name. An objective of
a feature has one of its own (`plait.training.teaching`). Knows no optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import nn

from plait.adapters import Float32, Task
from plait.errors import PartError
from plait.own_code import located_errors
from plait.training.device import device_of
from plait.training.examples import IGNORED, Example, Tokenizer
from plait.training.learner import LocalTraining
from plait.training.local_loss import LocalAdapter, LocalLoss, loss_named
from plait.training.losses import BatchLoss, class_logits, predictions
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


class ChosenLoss:
    """A loss that `--loss` names, in the place of `BatchLoss`; the model runs by its own modules.

    Args:
        model: the base with the adapter, in training mode.
        parameters: of the adapter, in layout order.
        start: (size,) the adapter that the round began with.
    """

    is_sum = False  # a user's own may be anything
    recomputes = False

    def __init__(
        self,
        model: nn.Module,
        parameters: Sequence[nn.Parameter],
        function: LocalLoss,
        *,
        start: Float32,
        task: Task,
        pad_token: int,
        name: str,
    ) -> None:
        self._model, self._function, self._name = model, function, name
        self._task, self._pad_token = task, pad_token
        self._device = device_of(model)
        names = {id(parameter): key for key, parameter in model.named_parameters()}
        self._tensors = {names[id(parameter)]: parameter for parameter in parameters}
        parts = torch.from_numpy(start.copy()).split([parameter.numel() for parameter in parameters])
        self._received = {
            names[id(parameter)]: part.view_as(parameter).to(parameter)
            for parameter, part in zip(parameters, parts, strict=True)
        }
        self.reported: torch.Tensor | None = None
        """The cross-entropy of the last batch, summed."""

    def __call__(self, batch: Sequence[Example]) -> torch.Tensor:
        """The batch's loss; a scalar that gradients can be taken of.

        Raises:
            PartError: the function fails, or gives anything but one number with a gradient.
        """
        logits, labels = self._logits(self._model, batch)
        self.reported = nn.functional.cross_entropy(logits.detach(), labels, ignore_index=IGNORED, reduction="sum")
        kept = labels != IGNORED
        logits, labels = (logits, labels) if bool(kept.all()) else (logits[kept], labels[kept])
        adapter = LocalAdapter(self._tensors, self._received, lambda: self._received_logits(batch, kept))
        with located_errors(f"loss '{self._name}' failed", quoting=False):
            loss = self._function(logits, labels, adapter)
        if not _is_sum(loss):
            raise PartError(
                f"loss '{self._name}' gave no single number with a gradient, expected a sum over the labels"
            )
        return loss

    def _logits(self, model: nn.Module, batch: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
        if self._task is Task.CLASSIFICATION:
            return class_logits(model, batch, pad_token=self._pad_token, device=self._device)
        return predictions(model, batch, pad_token=self._pad_token, device=self._device)

    @torch.no_grad()
    def _received_logits(self, batch: Sequence[Example], kept: torch.Tensor) -> torch.Tensor:
        was_training = self._model.training
        self._model.eval()
        try:
            # Called in place of the model, with other values of the adapter; the parameters themselves do not change.
            def other(**inputs: object) -> object:
                return torch.func.functional_call(self._model, self._received, (), inputs)

            logits, _ = self._logits(cast("nn.Module", other), batch)
        finally:
            self._model.train(was_training)
        return logits if bool(kept.all()) else logits[kept]


def _is_sum(loss: object) -> bool:
    return isinstance(loss, torch.Tensor) and not loss.dim() and loss.requires_grad

"""The loss of a step's sequences by a function of the user's own, which `--loss` names (`local_loss`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from plait.adapters import Float32, Task
from plait.errors import PartError
from plait.own_code import located_errors
from plait.training.device import device_of
from plait.training.examples import IGNORED, Example
from plait.training.local_loss import LocalAdapter, LocalLoss
from plait.training.model_losses import class_logits, predictions


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

"""Cross-entropy of a batch under a model, by the fastest implementation that fits the model.

Language models that `fused` supports are computed by it: same numbers within rounding, less time, no padding and
never all logits. Every other model, and every classifier, runs as PEFT and transformers implement it (`model_losses`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from plait.adapters import Task
from plait.training.examples import IGNORED, Example
from plait.training.fused.language_model import FusedLanguageModel, recognise
from plait.training.memory import StepMemory

if TYPE_CHECKING:
    from plait.training.model_losses import ModelLosses


class BatchLoss:
    """Cross-entropy in nats, summed over a batch's label tokens (or examples), in float32.

    Args:
        model: the base with the adapter, in the mode (training or not) to use.
        pad_token: pads short rows if rows must be padded.
        memory: what gives way to fit a step into memory.
    """

    is_sum = True
    """Whether the loss of a batch is the sum of those of its parts."""
    reported = None

    def __init__(self, model: nn.Module, *, task: Task, pad_token: int, memory: StepMemory | None = None) -> None:
        self._model = model
        self._memory = memory or StepMemory()
        self._task = task
        self._pad_token = pad_token
        self._fused = recognise(model) if task is Task.CAUSAL_LM else None
        self._own: ModelLosses | None = None

    @property
    def recomputes(self) -> bool:
        """Whether blocks can be computed twice instead of kept."""
        return self._fused is not None

    def __call__(self, batch: Sequence[Example]) -> torch.Tensor:
        """The batch's loss; a scalar that gradients can be taken of."""
        if self._fused is not None and self._fused.takes(batch):
            return self._by_fused(self._fused, batch)[0].sum()
        return self._by_model().total(batch)

    def by_sequence(self, batch: Sequence[Example]) -> list[float]:
        """The same for every sequence of a language model's batch separately, without gradients."""
        with torch.no_grad():
            losses, counts = self.by_token(batch)
        return [float(part.sum()) for part in losses.double().cpu().split(counts)]

    def by_token(self, batch: Sequence[Example]) -> tuple[torch.Tensor, list[int]]:
        """The same for every label token of a language model's batch.

        Returns:
            (counted,) float32 in the order of the batch, and the number for each sequence.
        """
        if self._fused is not None and self._fused.takes(batch):
            return self._by_fused(self._fused, batch)
        return self._by_model().by_token(batch), [count_labels(example, self._task) for example in batch]

    def _by_fused(self, fused: FusedLanguageModel, batch: Sequence[Example]) -> tuple[torch.Tensor, list[int]]:
        memory = self._memory
        return fused.token_losses(batch, recomputed=memory.recomputed, slice_elements=memory.slice_elements)

    def _by_model(self) -> ModelLosses:
        if self._own is None:
            from plait.training.model_losses import ModelLosses

            is_sliced = self._task is Task.CAUSAL_LM and self._fused is None
            self._own = ModelLosses(self._model, task=self._task, pad_token=self._pad_token, is_sliced=is_sliced)
        return self._own


def count_labels(example: Example, task: Task) -> int:
    """Number of terms that an example adds to the loss; a preference is one."""
    return 1 if task is Task.CLASSIFICATION or example.ends else int((example.labels[1:] != IGNORED).sum())

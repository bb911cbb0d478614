"""Cross-entropy of a batch under a model, by the fastest implementation that fits the model.

Language models that `fused` supports are computed by it: same numbers within rounding, less time, no padding and
never all logits. Every other model, and every classifier, runs as PEFT and transformers implement it; of a language
model's logits, where they would be many, only a slice exists at a time (`SlicedHead`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from plait.adapters import Task
from plait.training.device import device_of
from plait.training.examples import IGNORED, Example
from plait.training.fused import FusedLanguageModel, recognise
from plait.training.memory import StepMemory

if TYPE_CHECKING:
    from plait.training.sliced_head import SlicedHead

# If fewer positions than this count, only those are widened to float32: at 49,152 words each they dominate.
_MOSTLY = 0.75


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
        self._device = device_of(model)
        self._fused = recognise(model) if task is Task.CAUSAL_LM else None
        self._sliced: SlicedHead | None = None
        if task is Task.CAUSAL_LM and not self._fused:
            from plait.training.sliced_head import SlicedHead

            self._sliced = SlicedHead.of(model)

    @property
    def recomputes(self) -> bool:
        """Whether blocks can be computed twice instead of kept."""
        return self._fused is not None

    def __call__(self, batch: Sequence[Example]) -> torch.Tensor:
        """The batch's loss; a scalar that gradients can be taken of."""
        if self._fused is not None and self._fused.takes(batch):
            return self._by_fused(self._fused, batch)[0].sum()
        if (losses := self._by_slices(batch)) is not None:
            return losses.sum()
        return summed_loss(self._model, batch, task=self._task, pad_token=self._pad_token, device=self._device)

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
        if (losses := self._by_slices(batch)) is not None:
            return losses, [count_labels(example, self._task) for example in batch]
        logits, targets = predictions(self._model, batch, pad_token=self._pad_token, device=self._device)
        losses = nn.functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none")
        return losses[targets != IGNORED], [count_labels(example, self._task) for example in batch]

    def _by_fused(self, fused: FusedLanguageModel, batch: Sequence[Example]) -> tuple[torch.Tensor, list[int]]:
        memory = self._memory
        return fused.token_losses(batch, recomputed=memory.recomputed, slice_elements=memory.slice_elements)

    def _by_slices(self, batch: Sequence[Example]) -> torch.Tensor | None:
        """Losses of all label tokens where their logits are too many to be held; None where they are not."""
        if self._sliced is None or not self._sliced.pays(batch, self._device):
            return None
        tokens, mask = pad([example.tokens for example in batch], self._pad_token, self._device)
        found = self._sliced.token_losses(tokens, mask, [example.labels for example in batch])
        if found is None:
            self._sliced = None
        return found


def summed_loss(
    model: nn.Module, batch: Sequence[Example], *, task: Task, pad_token: int, device: torch.device
) -> torch.Tensor:
    """The result of `BatchLoss`, by the model's own modules."""
    if task is Task.CLASSIFICATION:
        logits, labels = class_logits(model, batch, pad_token=pad_token, device=device)
        return nn.functional.cross_entropy(logits, labels, reduction="sum")
    logits, targets = predictions(model, batch, pad_token=pad_token, device=device)
    return nn.functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")


def predictions(
    model: nn.Module, batch: Sequence[Example], *, pad_token: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, (positions, words) float32, and the target of each position; in the order of the batch.

    Targets that do not count are `IGNORED`; where few count, the others are left out.
    """
    tokens, mask = pad([example.tokens for example in batch], pad_token, device)
    labels, _ = pad([example.labels for example in batch], IGNORED, device)
    # Targets are shifted, not logits: cutting the last position off the logits would copy all of them.
    targets = nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED).flatten()
    # A learned prompt is part of the input, so its positions are part of the output.
    logits = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits[:, -tokens.shape[1] :].flatten(0, 1)
    counts = targets != IGNORED
    if counts.float().mean() < _MOSTLY:
        logits, targets = logits[counts], targets[counts]
    return logits.float(), targets


def count_labels(example: Example, task: Task) -> int:
    """Number of terms that an example adds to the loss; a preference is one."""
    return 1 if task is Task.CLASSIFICATION or example.ends else int((example.labels[1:] != IGNORED).sum())


def pad(
    rows: Sequence[np.ndarray[tuple[int], np.dtype[np.int32]]], filler: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Rows of different lengths as one (batch, longest) int64 tensor, and the mask of real tokens (None: all)."""
    longest = max(len(row) for row in rows)
    block = np.full((len(rows), longest), filler, np.int64)
    for number, row in enumerate(rows):
        block[number, : len(row)] = row
    tensor = torch.from_numpy(block).to(device)
    if all(len(row) == longest for row in rows):
        return tensor, None
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return tensor, (torch.arange(longest, device=device) < lengths[:, None]).long()


def class_logits(
    model: nn.Module, batch: Sequence[Example], *, pad_token: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a classifier, (batch, classes) float32, and the correct classes."""
    tokens, mask = pad([example.tokens for example in batch], pad_token, device)
    labels = torch.tensor([int(example.labels[0]) for example in batch], device=device)
    return model(input_ids=tokens, attention_mask=mask).logits.float(), labels

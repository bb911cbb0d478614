"""Cross-entropy of a batch by the model's own modules, as PEFT and transformers implement them.

Of a language model's logits, where they would be many, only a slice exists at a time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import nn
from torch.utils.checkpoint import checkpoint

from plait.adapters import AdapterTask
from plait.training.device import device_of
from plait.training.examples import IGNORED, Example
from plait.training.fused.block import plain_layer
from plait.training.fused.kernels import SLICE_ELEMENTS_ON_GPU, head_losses

Tensor = torch.Tensor

# If fewer positions than this count, only those are widened to float32: at 49,152 words each they dominate.
_MOSTLY = 0.75
MOST_LOGITS = SLICE_ELEMENTS_ON_GPU
"""Logits that may exist at once; as many or fewer are computed as PEFT computes them."""


class ModelLosses:
    """The losses of a model's batches; a language model's in slices if it `is_sliced`."""

    def __init__(
        self,
        model: nn.Module,
        *,
        task: AdapterTask = AdapterTask.CAUSAL_LM,
        pad_token: int = 0,
        is_sliced: bool = False,
    ) -> None:
        self._model, self._task, self._pad_token = model, task, pad_token
        self._device = device_of(model)
        self._sliced = SlicedHead.of(model) if is_sliced else None

    def total(self, batch: Sequence[Example]) -> Tensor:
        """Of all label tokens, or examples, together."""
        if (losses := self._by_slices(batch)) is not None:
            return losses.sum()
        logits, labels = self.logits(batch)
        return nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")

    def by_token(self, batch: Sequence[Example]) -> Tensor:
        """Of every label token of a language model's batch, (counted,) float32."""
        if (losses := self._by_slices(batch)) is not None:
            return losses
        logits, targets = self.logits(batch)
        return nn.functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none")[targets != IGNORED]

    def logits(self, batch: Sequence[Example], model: Callable[..., Any] | None = None) -> tuple[Tensor, Tensor]:
        """Logits (positions, words) float32 and targets; of a classifier (batch, classes) and classes."""
        model = model or self._model
        tokens, mask = pad([example.tokens for example in batch], self._pad_token, self._device)
        if self._task is AdapterTask.CLASSIFICATION:
            labels = torch.tensor([int(example.labels[0]) for example in batch], device=self._device)
            return model(input_ids=tokens, attention_mask=mask).logits.float(), labels
        labels, _ = pad([example.labels for example in batch], IGNORED, self._device)
        # Targets are shifted, not logits: cutting the last position off the logits would copy all of them.
        targets = nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED).flatten()
        # A learned prompt is part of the input, so its positions are part of the output.
        logits = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits
        logits = logits[:, -tokens.shape[1] :].flatten(0, 1)
        counts = targets != IGNORED
        if counts.float().mean() < _MOSTLY:
            logits, targets = logits[counts], targets[counts]
        return logits.float(), targets

    def _by_slices(self, batch: Sequence[Example]) -> Tensor | None:
        """None where all logits can be held."""
        if self._sliced is None or not self._sliced.pays(batch):
            return None
        tokens, mask = pad([example.tokens for example in batch], self._pad_token, self._device)
        found = self._sliced.token_losses(tokens, mask, [example.labels for example in batch])
        if found is None:
            self._sliced = None
        return found


@dataclass(eq=False)
class SlicedHead:
    """A model and its output layer."""

    model: nn.Module
    head: nn.Module
    words: int
    _is_plain: bool = False

    @classmethod
    def of(cls, model: nn.Module) -> Self | None:
        """None if the model has no output layer of its own."""
        inner = model.get_base_model() if isinstance(model, PeftModel) else model
        found = getattr(inner, "get_output_embeddings", lambda: None)()
        words = getattr(found, "out_features", None)
        return cls(model, found, words) if isinstance(found, nn.Module) and isinstance(words, int) else None

    def pays(self, batch: Sequence[Example]) -> bool:
        """Whether the batch's logits are too many to be held."""
        return len(batch) * max(len(example.tokens) for example in batch) * self.words > MOST_LOGITS

    def token_losses(self, tokens: Tensor, mask: Tensor | None, labels: Sequence[NDArray[np.int32]]) -> Tensor | None:
        """Cross-entropy of every label token, (counted,) float32; None if the model changes its head's output."""
        batch, longest = tokens.shape
        targets = np.full((batch, longest), IGNORED, np.int64)
        for row, own in zip(targets, labels, strict=True):
            row[: len(own) - 1] = own[1:]
        counted = np.flatnonzero(targets != IGNORED)
        wanted = torch.from_numpy(targets.reshape(-1)[counted]).to(tokens.device)
        rows = torch.from_numpy(counted).to(tokens.device)
        held: list[Tensor] = []

        def first_only(_head: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            held.append(given[0])
            # A view with gaps would have the head's matrix copied for each sequence.
            return (given[0][:, :1].contiguous(), *given[1:])

        hook = self.head.register_forward_pre_hook(first_only)
        try:
            logits = self.model(input_ids=tokens, attention_mask=mask, use_cache=False).logits
        finally:
            hook.remove()
        if not self._is_plain:
            with torch.no_grad():
                self._is_plain = torch.equal(logits, self.head(held[0][:, :1].contiguous()))
            if not self._is_plain:
                return None
        # A learned prompt is part of the input, so its positions are part of the output.
        hidden = held[0][:, -longest:].flatten(0, 1).index_select(0, rows)
        plain = plain_layer(self.head)
        if plain is not None and plain.pair is None and plain.bias is None and _is_frozen(plain.weight, hidden):
            return head_losses(hidden, plain.weight, wanted)
        size = max(1, SLICE_ELEMENTS_ON_GPU // self.words)
        slices = zip(hidden.split(size), wanted.split(size), strict=True)
        losses: list[Tensor] = [checkpoint(self._losses, *each, use_reentrant=False) for each in slices]
        return torch.cat(losses)

    def _losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.head(hidden).float(), targets, reduction="none")


def _is_frozen(weight: object, hidden: Tensor) -> TypeGuard[Tensor]:
    return isinstance(weight, Tensor) and not weight.requires_grad and weight.dtype == hidden.dtype


def pad(
    rows: Sequence[np.ndarray[tuple[int], np.dtype[np.int32]]], filler: int, device: torch.device
) -> tuple[Tensor, Tensor | None]:
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

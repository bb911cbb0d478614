"""A language model's loss with a slice of its logits at a time, where they are too many to be held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import nn
from torch.utils.checkpoint import checkpoint

from plait.training.examples import IGNORED, Example
from plait.training.fused.kernels import SLICE_ELEMENTS_ON_GPU

_HELD_ON_CPU = 1 << 28
"""Logits that a CPU's memory holds at once; fewer are computed as PEFT computes them."""


@dataclass(eq=False)
class SlicedHead:
    """A model and its output layer."""

    model: nn.Module
    head: nn.Module
    words: int
    _is_plain: bool = False

    @classmethod
    def of(cls, model: nn.Module) -> SlicedHead | None:
        """None if the model has no output layer of its own."""
        inner = model.get_base_model() if isinstance(model, PeftModel) else model
        found = getattr(inner, "get_output_embeddings", lambda: None)()
        words = getattr(found, "out_features", None)
        return cls(model, found, words) if isinstance(found, nn.Module) and isinstance(words, int) else None

    def pays(self, batch: Sequence[Example], device: torch.device) -> bool:
        """Whether the batch's logits are too many to be held."""
        most = _HELD_ON_CPU if device.type == "cpu" else SLICE_ELEMENTS_ON_GPU
        return len(batch) * max(len(example.tokens) for example in batch) * self.words > most

    def token_losses(
        self, tokens: torch.Tensor, mask: torch.Tensor | None, labels: Sequence[NDArray[np.int32]]
    ) -> torch.Tensor | None:
        """Cross-entropy of every label token, (counted,) float32, in nats, in order.

        Args:
            tokens: (batch, longest), padded.
            mask: of real tokens, or None if all are.

        Returns:
            None if the model changes what its head gives.
        """
        batch, longest = tokens.shape
        targets = np.full((batch, longest), IGNORED, np.int64)
        for row, own in zip(targets, labels, strict=True):
            row[: len(own) - 1] = own[1:]
        counted = np.flatnonzero(targets != IGNORED)
        wanted = torch.from_numpy(targets.reshape(-1)[counted]).to(tokens.device)
        rows = torch.from_numpy(counted).to(tokens.device)
        held: list[torch.Tensor] = []

        def first_only(_head: nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            held.append(given[0])
            return (given[0][:, :1], *given[1:])

        hook = self.head.register_forward_pre_hook(first_only)
        try:
            logits = self.model(input_ids=tokens, attention_mask=mask, use_cache=False).logits
        finally:
            hook.remove()
        if not self._is_plain:
            with torch.no_grad():
                self._is_plain = torch.equal(logits, self.head(held[0][:, :1]))
            if not self._is_plain:
                return None
        # A learned prompt is part of the input, so its positions are part of the output.
        hidden = held[0][:, -longest:].flatten(0, 1).index_select(0, rows)
        size = max(1, SLICE_ELEMENTS_ON_GPU // self.words)
        slices = zip(hidden.split(size), wanted.split(size), strict=True)
        losses: list[torch.Tensor] = [checkpoint(self._losses, *each, use_reentrant=False) for each in slices]
        return torch.cat(losses)

    def _losses(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(self.head(hidden).float(), targets, reduction="none")

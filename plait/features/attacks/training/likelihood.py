"""How likely a model finds each sequence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from plait.abandon import check_abandoned
from plait.adapters import Task
from plait.training.device import device_of
from plait.training.examples import IGNORED, Example
from plait.training.losses import class_logits, count_labels, predictions


@torch.no_grad()
def losses(
    model: nn.Module, examples: Sequence[Example], *, task: Task, pad_token: int, batch_size: int
) -> list[float]:
    """The mean loss of every example over its label tokens (or of its class), in nats, in order, in evaluation mode."""
    model.eval()
    device = device_of(model)
    found: list[float] = []
    for first in range(0, len(examples), batch_size):
        batch = examples[first : first + batch_size]
        if task is Task.CLASSIFICATION:
            logits, labels = class_logits(model, batch, pad_token=pad_token, device=device)
            found += nn.functional.cross_entropy(logits, labels, reduction="none").tolist()
        else:
            logits, targets = predictions(model, batch, pad_token=pad_token, device=device)
            kept = targets != IGNORED
            each = nn.functional.cross_entropy(logits[kept], targets[kept], reduction="none")
            found += [float(part.mean()) for part in each.split([count_labels(example, task) for example in batch])]
        check_abandoned()
    return found

"""How likely a model finds each sequence, in the measures that tell what it was trained on.

The loss, and Min-K%++ (Zhang et al., arXiv 2404.02936): the mean over the fifth of a sequence's tokens that are least
expected of z = (log p(x) - mu) / sigma, with mu and sigma the mean and standard deviation of log p(w) over words w
drawn from the same prediction. A token that stands out against its alternatives, not merely a likely one, speaks for
training on it. Knows nothing of members.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from plait.abandon import check_abandoned
from plait.adapters import Task
from plait.training.device import device_of
from plait.training.examples import IGNORED, Example
from plait.training.losses import class_logits, count_labels, predictions

_LEAST = 0.2
_SMALLEST_SIGMA = 1e-6


@dataclass(frozen=True)
class Likelihood:
    """Of one sequence.

    Attributes:
        loss: mean over its label tokens (or of its class), in nats.
        min_k: Min-K%++ with k = 20; None for a class, which has no tokens.
    """

    loss: float
    min_k: float | None


@torch.no_grad()
def likelihoods(
    model: nn.Module, examples: Sequence[Example], *, task: Task, pad_token: int, batch_size: int
) -> list[Likelihood]:
    """The likelihood of every example, in order, in evaluation mode.

    Raises:
        Abandoned: the result is no longer needed.
    """
    model.eval()
    device = device_of(model)
    found: list[Likelihood] = []
    for first in range(0, len(examples), batch_size):
        batch = examples[first : first + batch_size]
        if task is Task.CLASSIFICATION:
            logits, labels = class_logits(model, batch, pad_token=pad_token, device=device)
            losses = nn.functional.cross_entropy(logits, labels, reduction="none")
            found += [Likelihood(loss, None) for loss in losses.tolist()]
        else:
            logits, targets = predictions(model, batch, pad_token=pad_token, device=device)
            kept = targets != IGNORED
            logs, targets = logits[kept].log_softmax(dim=-1), targets[kept]
            counts = [count_labels(example, task) for example in batch]
            for logs_of_one, targets_of_one in zip(logs.split(counts), targets.split(counts), strict=True):
                found.append(_of_sequence(logs_of_one, targets_of_one))
        check_abandoned()
    return found


def _of_sequence(logs: torch.Tensor, targets: torch.Tensor) -> Likelihood:
    """Args: logs: (tokens, words) log p; targets: (tokens,)."""
    taken = logs.gather(1, targets[:, None])[:, 0]
    probabilities = logs.exp()
    mean = (probabilities * logs).sum(dim=1)
    spread = ((probabilities * logs.square()).sum(dim=1) - mean.square()).clamp(min=0).sqrt()
    z = ((taken - mean) / spread.clamp(min=_SMALLEST_SIGMA)).sort().values
    least = z[: max(1, math.ceil(_LEAST * len(z)))]
    return Likelihood(-float(taken.mean()), float(least.mean()))

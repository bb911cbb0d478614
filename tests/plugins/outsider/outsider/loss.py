"""Focal loss (arXiv 1708.02002)."""

import torch

from plait.training.own_functions import LocalAdapter


def focal(
    logits: torch.Tensor,
    labels: torch.Tensor,
    adapter: LocalAdapter,
    *,
    gamma: float = 2.0,
) -> torch.Tensor:
    """Likely words count less."""
    likely = torch.log_softmax(logits, dim=-1).gather(1, labels[:, None])[:, 0]
    return -((1 - likely.exp()) ** gamma * likely).sum()

"""Orthogonality: a low-rank adapter's directions are kept apart, so that no two of them do the same.

Zhang et al., "AdaLoRA", arXiv 2303.10512, eq. 4, on LoRA's A, whose rows start with equal size: weight times
|| A A^T / t - I ||_F^2 with t = tr(A A^T) / rank, which is 0 where all rows are orthogonal and of one length, and does
not depend on their length. Added once for every label, so that it weighs the same whatever a batch holds.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch.nn import functional

from plait.training.local_loss import LocalAdapter


def orthogonality(
    logits: torch.Tensor,
    labels: torch.Tensor,
    adapter: LocalAdapter,
    *,
    weight: Annotated[float, Field(ge=0, le=1e6, description="weight of the penalty")] = 0.01,
) -> torch.Tensor:
    """Cross-entropy and the penalty, summed over the labels."""
    penalty = logits.new_zeros(())
    for name, tensor in adapter.tensors.items():
        if ".lora_A." in name:
            gram = tensor.float() @ tensor.float().T
            scale = gram.diagonal().mean().clamp(min=1e-12)
            penalty = penalty + (gram / scale - torch.eye(len(gram), device=gram.device)).square().sum()
    return functional.cross_entropy(logits, labels, reduction="sum") + weight * len(labels) * penalty

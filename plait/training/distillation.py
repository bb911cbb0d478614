"""Knowledge distillation against the received adapter, so that a client does not forget what all of them learned.

Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv 1503.02531, with the received global model as the
teacher, as in Lee et al., "Preservation of the Global Knowledge by Not-True Distillation in Federated Learning", arXiv
2106.03097 (its plain form): CE + weight T^2 KL(teacher || student), both softened by the temperature T.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch.nn import functional

from plait.training.local_loss import LocalAdapter


def distillation(
    logits: torch.Tensor,
    labels: torch.Tensor,
    adapter: LocalAdapter,
    *,
    weight: Annotated[float, Field(ge=0, le=1e6, description="weight of the divergence")] = 0.5,
    temperature: Annotated[float, Field(gt=0, le=1e3, description="softens both distributions")] = 2.0,
) -> torch.Tensor:
    """Cross-entropy and the divergence from the received adapter's predictions, summed over the labels."""
    teacher = functional.log_softmax(adapter.received_logits() / temperature, dim=-1)
    student = functional.log_softmax(logits / temperature, dim=-1)
    divergence = functional.kl_div(student, teacher, reduction="sum", log_target=True)
    return functional.cross_entropy(logits, labels, reduction="sum") + weight * temperature**2 * divergence

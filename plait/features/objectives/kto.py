"""Kahneman-Tversky optimisation, which learns from single replies that were accepted or not.

Ethayarajh et al., "KTO: Model Alignment as Prospect Theoretic Optimization", arXiv 2402.01306, eqs. 7 and 8.
The reference point z0 is estimated, without a gradient, on the prompts of the batch with replies to other prompts, as
in section 4.1 there. A pair counts as two single replies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from plait.features.objectives.formula import Reply, Sides

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class KTO:
    """Weight times 1 - sigmoid of beta times the distance of the log-ratio from z0, on the side of the verdict."""

    beta: Annotated[float, Field(gt=0, le=1e3, description="how close the model stays to the reference")] = 0.1
    desirable_weight: Annotated[float, Field(ge=0, le=1e3, description="weight of accepted replies")] = 1.0
    undesirable_weight: Annotated[float, Field(ge=0, le=1e3, description="weight of rejected replies")] = 1.0

    needs_reference = True
    takes_one_reply = True
    is_sum = False

    def losses(self, sides: Sides) -> torch.Tensor:
        """See `Formula`."""
        is_there = sides.unrelated.tokens > 0
        mean = (sides.unrelated.gained * is_there).sum() / is_there.sum().clamp(min=1)
        zero = mean.detach().clamp(min=0)
        accepted = 1 - (self.beta * (sides.chosen.gained - zero)).sigmoid()
        refused = 1 - (self.beta * (zero - sides.rejected.gained)).sigmoid()
        return self.desirable_weight * accepted * (sides.chosen.tokens > 0) + self.undesirable_weight * refused * (
            sides.rejected.tokens > 0
        )

    def reward(self, reply: Reply) -> torch.Tensor:
        """See `Formula`."""
        return self.beta * reply.gained

"""Simple preference optimisation.

Meng et al., "SimPO: Simple Preference Optimization with a Reference-Free Reward", arXiv 2405.14734, eq. 6. Needs no
reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from plait.features.objectives.formula import Reply, Sides, log_sigmoid

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class SimPO:
    """-log sigmoid of beta times the difference of the average log-probabilities, less a margin."""

    beta: Annotated[float, Field(gt=0, le=1e3, description="scale of the reward")] = 2.0
    simpo_gamma: Annotated[float, Field(ge=0, le=1e3, description="margin that the reward should reach")] = 0.5

    needs_reference = False
    takes_one_reply = False
    is_sum = True

    def losses(self, sides: Sides) -> torch.Tensor:
        """See `Formula`."""
        return -log_sigmoid(self.reward(sides.chosen) - self.reward(sides.rejected) - self.simpo_gamma)

    def reward(self, reply: Reply) -> torch.Tensor:
        """See `Formula`; equation 4."""
        return self.beta * reply.average

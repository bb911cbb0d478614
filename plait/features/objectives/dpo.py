"""Direct preference optimisation (Rafailov et al., "Direct Preference Optimization", arXiv 2305.18290, eq. 7).

With `label_smoothing`, the conservative form for labels that are wrong with that probability (Mitchell, "A note on DPO
with noisy preferences", 2023, eq. 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from plait.features.objectives.formula import Reply, Sides, log_sigmoid

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DPO:
    """-log sigmoid of beta times the difference of the two log-ratios."""

    beta: Annotated[float, Field(gt=0, le=1e3, description="how close the model stays to the reference")] = 0.1
    label_smoothing: Annotated[
        float, Field(ge=0, lt=0.5, description="probability that a preference is the wrong way round")
    ] = 0.0

    is_sum = True

    def losses(self, sides: Sides) -> torch.Tensor:
        """See `Formula`."""
        margin = self.reward(sides.chosen) - self.reward(sides.rejected)
        smoothing = self.label_smoothing
        return -(1 - smoothing) * log_sigmoid(margin) - smoothing * log_sigmoid(-margin)

    def reward(self, reply: Reply) -> torch.Tensor:
        """See `Formula`; equation 5 without the prompt's own term."""
        return self.beta * reply.gained

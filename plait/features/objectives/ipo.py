"""Identity preference optimisation.

Azar et al., "A General Theoretical Paradigm to Understand Learning from Human Preferences", arXiv 2310.12036, eq. 17.
As in TRL, log-ratios are averages over a reply's tokens, and `beta` is the paper's tau.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from plait.features.objectives.formula import Reply, Sides

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class IPO:
    """Squared distance of the difference of the log-ratios from 1 / (2 beta)."""

    beta: Annotated[float, Field(gt=0, le=1e3, description="the smaller, the further the two replies part")] = 0.1

    needs_reference = True
    takes_one_reply = False
    is_sum = True

    def losses(self, sides: Sides) -> torch.Tensor:
        """See `Formula`."""
        parted = _ratio(sides.chosen) - _ratio(sides.rejected)
        return (parted - 1 / (2 * self.beta)) ** 2

    def reward(self, reply: Reply) -> torch.Tensor:
        """See `Formula`."""
        return self.beta * _ratio(reply)


def _ratio(reply: Reply) -> torch.Tensor:
    return reply.gained / reply.tokens.clamp(min=1)

"""Odds ratio preference optimisation.

Hong et al., "ORPO: Monolithic Preference Optimization without Reference Model", arXiv 2403.07691, eqs. 6 and 7.
The likelihood of a reply is that of its tokens on average (eq. 3). Needs no reference, and learns the chosen reply too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from plait.features.objectives.formula import Reply, Sides, log_sigmoid

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ORPO:
    """The cross-entropy of the chosen reply, less beta log sigmoid of the log of the odds ratio."""

    beta: Annotated[float, Field(gt=0, le=1e3, description="weight of the odds ratio, the paper's lambda")] = 0.1

    needs_reference = False
    takes_one_reply = False
    is_sum = True

    def losses(self, sides: Sides) -> torch.Tensor:
        """See `Formula`."""
        ratio = _log_odds(sides.chosen) - _log_odds(sides.rejected)
        return -sides.chosen.average - self.beta * log_sigmoid(ratio)

    def reward(self, reply: Reply) -> torch.Tensor:
        """See `Formula`."""
        return self.beta * reply.average


def _log_odds(reply: Reply) -> torch.Tensor:
    """Log of p / (1 - p)."""
    # A reply that is certain would have infinite odds.
    average = reply.average.clamp(max=-1e-6)
    return average - (-average.expm1()).log()

"""The server's part of FedDyn: the mean of the clients' adapters, minus h / alpha.

Acar et al., "Federated Learning Based on Dynamic Regularization", arXiv 2111.04263, algorithm 1. With p the share of
the clients that take part, d the mean of their deltas and h <- h - alpha p d, the next adapter is the mean minus h /
alpha:

    s <- s + p d        step: d + s

where s = -h / alpha, so the server need not know alpha. The clients' part is `feddyn.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from plait.adapters import AdapterState
from plait.aggregation.rule import Outcome, RoundContext
from plait.aggregation.server_step import ON_FACTORS, Adjusted, OptimizerState
from plait.traits import Reasons


@dataclass(frozen=True)
class FedDynStep:
    """The step of FedDyn's server."""

    share: Annotated[float, Field(gt=0, le=1, description="share p of the clients that take part in a round")] = 1.0

    name = "feddyn"
    needs: ClassVar[Reasons] = ON_FACTORS
    copies = 1

    def adjust(self, outcome: Outcome, memory: OptimizerState, context: RoundContext) -> Adjusted:
        """Add what the clients' regularisers hold back."""
        del context
        step = outcome.step
        gone = (np.float32(self.share) * step.flat).astype(np.float32, copy=False)
        if "gone" in memory:
            gone = gone + memory["gone"].astype(np.float32, copy=False)
        return AdapterState(step.layout, step.flat + gone), {"gone": gone}


FEDDYN = FedDynStep()

"""FedExP: the more the clients disagree, the longer the server's step along the mean of their deltas.

Jhunjhunwala, Wang and Joshi, "FedExP: Speeding Up Federated Averaging via Extrapolation", ICLR 2023, arXiv 2301.09604:
the mean of deltas that point different ways is much shorter than any of them, so a plain average hardly moves. With the
weighted mean of squared norms S = sum_k w_k ||d_k||^2 and the mean step d, the server takes

    lr max(1, S / (2 ||d||^2)) d

which is the plain step where the clients agree, and needs no tuning. Acts on B and A directly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from plait.adapters import AdapterState, norm
from plait.aggregation.round import Outcome, RoundContext
from plait.aggregation.server_optimizer import ON_FACTORS, Adjusted, OptimizerState
from plait.traits import Reasons, Trait

_NORMS = "its step depends on the norms of single updates"


@dataclass(frozen=True)
class FedExp:
    """A server learning rate computed from the updates themselves.

    Attributes:
        lr: multiplies the learning rate computed from the updates.
    """

    lr: Annotated[float, Field(gt=0, description="multiplies the learning rate computed from the updates")] = 1.0

    name = "fedexp"
    needs: ClassVar[Reasons] = {**ON_FACTORS, Trait.SINGLE_UPDATES: _NORMS}
    copies = 0

    def adjust(self, outcome: Outcome, memory: OptimizerState, context: RoundContext) -> Adjusted:
        """The step, lengthened where clients disagree."""
        del context
        square = norm(outcome.step) ** 2
        longer = max(1.0, outcome.client_square / (2.0 * square)) if square else 1.0
        rate = np.float32(self.lr * longer)
        return AdapterState(outcome.step.layout, rate * outcome.step.flat), memory


FEDEXP = FedExp()

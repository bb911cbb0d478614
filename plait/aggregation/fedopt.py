"""FedOpt on raw factors: the server's own optimizer takes the step of a round as a pseudo-gradient.

Reddi et al., "Adaptive Federated Optimization", arXiv 2003.00295, algorithm 2. With m the first and v the second moment
of the step d:

    sgd         m <- beta m + d                       step: lr m, with Nesterov lr (d + beta m)
    fedadagrad  v <- v + d^2
    fedyogi     v <- v - (1 - beta2) d^2 sign(v - d^2)
    fedadam     v <- beta2 v + (1 - beta2) d^2        step: lr m / (sqrt(v) + tau), m <- beta1 m + (1 - beta1) d

Moments start at 0 and tau^2 and are not bias-corrected, as in the paper. Momentum with Nesterov's look-ahead on rare
large steps is DiLoCo's outer optimizer (arXiv 2311.08105).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from plait.adapters import AdapterState, Float32
from plait.aggregation.round import Outcome, RoundContext
from plait.aggregation.server_optimizer import ON_FACTORS, Adjusted, OptimizerState
from plait.traits import Reasons


@dataclass(frozen=True)
class Sgd:
    """Server learning rate and momentum.

    Attributes:
        name: what the user gives.
        lr: multiplies the step; above 1 the server goes further than the clients did.
        momentum: beta, from 0 to less than 1.
        nesterov: look ahead along the momentum.
    """

    name: Literal["sgd", "nesterov"] = "sgd"
    lr: Annotated[float, Field(gt=0, description="multiplies the step")] = 1.0
    momentum: Annotated[float, Field(ge=0, lt=1, description="decay of earlier steps")] = 0.0
    nesterov: bool = False

    needs: ClassVar[Reasons] = ON_FACTORS
    copies = 1

    def adjust(self, outcome: Outcome, memory: OptimizerState, context: RoundContext) -> Adjusted:
        """Add to the momentum and follow it."""
        del context
        step = outcome.step
        first = np.float32(self.momentum) * _array(memory, "first", like=step, start=0.0) + step.flat
        way = step.flat + np.float32(self.momentum) * first if self.nesterov else first
        return AdapterState(step.layout, np.float32(self.lr) * way), {"first": first}


@dataclass(frozen=True)
class Adaptive:
    """FedAdam, FedYogi or FedAdagrad.

    Attributes:
        lr: about the largest change of an element per round.
        momentum: beta1, the decay of the first moment.
    """

    name: Literal["fedadagrad", "fedadam", "fedyogi"]
    lr: Annotated[float, Field(gt=0, description="about the largest change of an element per round")] = 1.0
    momentum: Annotated[float, Field(ge=0, lt=1, description="beta1, decay of the first moment")] = 0.0
    beta2: Annotated[float, Field(ge=0, lt=1, description="decay of the second moment; FedAdagrad has none")] = 0.99
    tau: Annotated[
        float, Field(gt=0, le=1, description="adaptivity: far smaller steps are multiplied by learning rate / tau")
    ] = 1e-3

    needs: ClassVar[Reasons] = ON_FACTORS
    copies = 2

    def adjust(self, outcome: Outcome, memory: OptimizerState, context: RoundContext) -> Adjusted:
        """Update both moments and take the adaptive step."""
        del context
        step = outcome.step
        first = _array(memory, "first", like=step, start=0.0)
        first = np.float32(self.momentum) * first + np.float32(1.0 - self.momentum) * step.flat
        second = self._second(_array(memory, "second", like=step, start=self.tau**2), np.square(step.flat))
        way = np.float32(self.lr) * first / (np.sqrt(second) + np.float32(self.tau))
        return AdapterState(step.layout, way.astype(np.float32, copy=False)), {"first": first, "second": second}

    def _second(self, second: Float32, square: Float32) -> Float32:
        new = np.float32(1.0 - self.beta2)
        if self.name == "fedadagrad":
            result = second + square
        elif self.name == "fedyogi":
            result = second - new * square * np.sign(second - square)
        else:
            result = np.float32(self.beta2) * second + new * square
        return result.astype(np.float32, copy=False)


def _array(memory: OptimizerState, name: str, *, like: AdapterState, start: float) -> Float32:
    array = memory.get(name)
    if array is None:
        return np.full(like.layout.size, start, np.float32)
    return array.astype(np.float32, copy=False)


FEDADAGRAD, FEDADAM, FEDYOGI = Adaptive("fedadagrad"), Adaptive("fedadam"), Adaptive("fedyogi")
NESTEROV, SGD = Sgd("nesterov", nesterov=True), Sgd()

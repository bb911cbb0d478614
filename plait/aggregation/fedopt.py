"""FedOpt: the step of a round as a pseudo-gradient (Reddi et al., arXiv 2003.00295, algorithm 2).

    sgd         m <- beta m + d                       step: lr m, with Nesterov lr (d + beta m)
    fedadagrad  v <- v + d^2
    fedyogi     v <- v - (1 - beta2) d^2 sign(v - d^2)
    fedadam     v <- beta2 v + (1 - beta2) d^2        step: lr m / (sqrt(v) + tau), m <- beta1 m + (1 - beta1) d

Moments start at 0 and tau^2, without bias correction. By default lr and tau are multiples of the root mean square of
the first round's d. Nesterov's look-ahead on rare large steps is DiLoCo's outer optimizer (arXiv 2311.08105).
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from plait.adapters import AdapterState, Float32
from plait.aggregation.rule import Outcome, RoundContext
from plait.aggregation.server_step import ON_FACTORS, Adjusted, OptimizerState
from plait.errors import ConfigError
from plait.settings.traits import Reasons


@dataclass(frozen=True)
class Sgd:
    """Server learning rate and momentum."""

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


_LR, _TAU = 2.0, 1.0  # of the first step's root mean square (simulations/defaults)

_LONGEST_FIRST = 10.0  # of a first step with a given rate, in steps of the rule


@dataclass(frozen=True)
class Adaptive:
    """FedAdam, FedYogi or FedAdagrad."""

    name: Literal["fedadagrad", "fedadam", "fedyogi"]
    lr: Annotated[
        float, Field(ge=0, description="about the largest change of an element per round; 0: measured in round 1")
    ] = 0.0
    momentum: Annotated[float, Field(ge=0, lt=1, description="beta1, decay of the first moment")] = 0.0
    beta2: Annotated[float, Field(ge=0, lt=1, description="decay of the second moment; FedAdagrad has none")] = 0.99
    tau: Annotated[
        float,
        Field(ge=0, le=1, description="far smaller steps are multiplied by lr / tau; 0: measured in round 1"),
    ] = 0.0

    needs: ClassVar[Reasons] = ON_FACTORS
    copies = 2

    def adjust(self, outcome: Outcome, memory: OptimizerState, context: RoundContext) -> Adjusted:
        """Update both moments and take the adaptive step.

        Raises:
            ConfigError: a given rate makes the first step far longer than the rule's.
        """
        del context
        step = outcome.step
        unit = float(memory["unit"].astype(np.float64)[0]) if "unit" in memory else _size(step.flat)
        if not unit:
            return step, memory
        lr, tau = self.lr or _LR * unit, self.tau or _TAU * unit
        first = _array(memory, "first", like=step, start=0.0)
        first = np.float32(self.momentum) * first + np.float32(1.0 - self.momentum) * step.flat
        second = self._second(_array(memory, "second", like=step, start=tau**2), np.square(step.flat))
        way = (np.float32(lr) * first / (np.sqrt(second) + np.float32(tau))).astype(np.float32, copy=False)
        if not memory and (longer := _size(way) / unit) > _LONGEST_FIRST:
            given = f"lr {lr:g} and tau {tau:g} is {longer:.0f} times as long as the rule's"
            raise ConfigError(
                f"the first step of server optimizer '{self.name}' with {given}, expected at most "
                f"{_LONGEST_FIRST:g} times: leave lr and tau out"
            )
        return AdapterState(step.layout, way), {"first": first, "second": second, "unit": np.array([unit])}

    def _second(self, second: Float32, square: Float32) -> Float32:
        new = np.float32(1.0 - self.beta2)
        if self.name == "fedadagrad":
            result = second + square
        elif self.name == "fedyogi":
            result = second - new * square * np.sign(second - square)
        else:
            result = np.float32(self.beta2) * second + new * square
        return result.astype(np.float32, copy=False)


def _size(flat: Float32) -> float:
    """The root mean square of the numbers that move; 0 if none does."""
    moved = flat[flat != 0].astype(np.float64)
    return float(np.sqrt(np.mean(np.square(moved)))) if moved.size else 0.0


def _array(memory: OptimizerState, name: str, *, like: AdapterState, start: float) -> Float32:
    array = memory.get(name)
    if array is None:
        return np.full(like.layout.size, start, np.float32)
    return array.astype(np.float32, copy=False)


FEDADAGRAD, FEDADAM, FEDYOGI = Adaptive("fedadagrad"), Adaptive("fedadam"), Adaptive("fedyogi")

NESTEROV, SGD = Sgd("nesterov", nesterov=True), Sgd()

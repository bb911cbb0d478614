"""Server optimizers: what the server makes of the step of a round before it applies it.

They act on B and A directly, so they depend on how a product is split into factors. Pure: the state goes in and comes
out as plain arrays.

FedOpt (Reddi et al., "Adaptive Federated Optimization", arXiv 2003.00295, algorithm 2) takes the step as a
pseudo-gradient. With m the first and v the second moment of the step d:

    sgd         m <- beta m + d                       step: lr m, with Nesterov lr (d + beta m)
    fedadagrad  v <- v + d^2
    fedyogi     v <- v - (1 - beta2) d^2 sign(v - d^2)
    fedadam     v <- beta2 v + (1 - beta2) d^2        step: lr m / (sqrt(v) + tau), m <- beta1 m + (1 - beta1) d

Moments start at 0 and tau^2 and are not bias-corrected, as in the paper. How large d is depends on method, data and
local steps, so by default lr and tau are multiples of the root mean square of the first round's d; lr 1 and tau 1e-3,
as for whole models, would move every number of an adapter by hundreds of times d. Given ones are absolute, and refused
if their first step is more than ten times as long as d. Momentum with Nesterov's look-ahead on rare large steps is
DiLoCo's outer optimizer (arXiv 2311.08105).

The line search is a secant method over rounds. Clients measure the slope s1 of their loss along the adapter's last
movement where it ended (`plait.rounds.hooks`); in place of the slope where it began, for which every client would
have to keep a gradient, stands what a local step may predict at most, a quarter of the loss (`plait.training.learner`).
After every round, with t the mean of s1 over a quarter of the loss, no client's counted beyond 1,

    server learning rate <- server learning rate / sqrt(1 + t)

within bounds; the root, because curvature grows from round to round. Where several steps were taken back at once, no
slope counts. Figures: `simulations/defaults`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Any, ClassVar, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from plait.adapters import AdapterState, Float32
from plait.aggregation.rule import Outcome, RoundContext
from plait.choice import parse_choice, with_options
from plait.errors import ConfigError
from plait.plugins import Kind, find
from plait.traits import Reasons, Trait

OptimizerState = Mapping[str, NDArray[np.generic]]
Adjusted = tuple[AdapterState, OptimizerState]
"""The step to apply, and the state to keep."""
ON_FACTORS: Reasons = {Trait.SAME_FACTORS: "it acts on each factor separately"}
"""What an optimizer needs that acts on them."""


class ServerOptimizer(Protocol):
    """A map from the outcome of a rule to the step that is taken: a frozen dataclass."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]
    needs: ClassVar[Reasons]
    """What a run must have for it (`plait.traits`), besides what every optimizer needs."""

    @property
    def name(self) -> str:
        """What the user gives to ``--server-optimizer``."""
        ...

    @property
    def copies(self) -> int:
        """How many float32 values it carries over for each parameter of the adapter."""
        ...

    def adjust(self, outcome: Outcome, memory: OptimizerState, context: RoundContext) -> Adjusted:
        """The step to apply, and the state to keep.

        Args:
            memory: as returned in the previous round; empty at first.
        """
        ...


@dataclass(frozen=True)
class Plain:
    """Use the rule's step unchanged."""

    name = "none"
    needs: ClassVar[Reasons] = {}
    copies = 0

    def adjust(self, outcome: Outcome, memory: OptimizerState, context: RoundContext) -> Adjusted:
        """The step unchanged."""
        del context
        return outcome.step, memory


NONE = Plain()


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


_SLOPES = "its step depends on slopes that single clients measure"
_SHORTEST, _LONGEST = 0.75, 1.5
_LARGEST_FALL = 0.25  # of the loss, as the trainer has it
_LEAST = 0.25  # of 1 + t: no step is more than twice as long as the one before


@dataclass(frozen=True)
class LineSearch:
    """A server learning rate that follows the slope which clients measure; 1 as long as none has said any."""

    name = "line_search"
    needs: ClassVar[Reasons] = {**ON_FACTORS, Trait.FIGURES: _SLOPES}
    copies = 0

    def adjust(self, outcome: Outcome, memory: OptimizerState, context: RoundContext) -> Adjusted:
        """The step, as long as the last ones should have been."""
        del context
        rate = float(memory["rate"].astype(np.float64)[0]) if "rate" in memory else 1.0
        if outcome.slope is not None:
            longer = 1 / math.sqrt(max(_LEAST, 1 + outcome.slope))
            rate = min(_LONGEST, max(_SHORTEST, rate * longer))
        flat = np.float32(rate) * outcome.step.flat
        return AdapterState(outcome.step.layout, flat), {"rate": np.array([rate])}


def slope_of(measured: Iterable[tuple[float, float]]) -> float | None:
    """The mean of (slope over loss or NaN, weight) as a part of the most that a local step may predict, or None."""
    known = [
        (max(-1.0, min(1.0, slope / _LARGEST_FALL)), weight) for slope, weight in measured if not math.isnan(slope)
    ]
    total = math.fsum(weight for _, weight in known)
    return math.fsum(slope * weight for slope, weight in known) / total if known else None


LINE_SEARCH = LineSearch()


OPTIMIZERS: Mapping[str, ServerOptimizer] = {
    each.name: each for each in (FEDADAGRAD, FEDADAM, FEDYOGI, LINE_SEARCH, NESTEROV, NONE, SGD)
}
"""The core's by name, in alphabetical order; features have others."""


def optimizer_for(text: str) -> ServerOptimizer:
    """The optimizer that the user asks for.

    Args:
        text: one of `OPTIMIZERS` or of a feature, or with options ``fedadam:lr=0.003,momentum=0.9``; for a user's own
            ``my_rules:Mine`` or the name of an installed one. ``auto`` is resolved by the caller.

    Raises:
        ConfigError: there is no such optimizer or option, or a number is out of range.
    """
    name, options = parse_choice(text)
    optimizer = OPTIMIZERS.get(name)
    if optimizer is None:
        optimizer = as_optimizer(find(Kind.SERVER_OPTIMIZER, name, known=("auto", *OPTIMIZERS)), name=name)
    return with_options(optimizer, options, what=f"server optimizer '{name}'")


def as_optimizer(part: object, *, name: str) -> ServerOptimizer:
    """A user's own server optimizer: a frozen dataclass, or an instance of one.

    Raises:
        ConfigError: it is something else, or lacks one of the members of `ServerOptimizer`.
    """
    from plait.own_code import instance_of

    what = f"server optimizer '{name}'"
    part = instance_of(part, what=what)
    if not is_dataclass(part) or isinstance(part, type):
        raise ConfigError(f"{what} is a {type(part).__name__}, expected a frozen dataclass")
    for member in ("name", "needs", "copies", "adjust"):
        if not hasattr(part, member):
            raise ConfigError(f"{what} has no '{member}', expected name, needs, copies and adjust")
    return cast("ServerOptimizer", part)

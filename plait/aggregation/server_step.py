"""Server optimizers: what the server makes of the step of a round before it applies it; FedOpt's are in `fedopt`.

The line search is a secant method over rounds: with t the mean of the slope of clients' losses along the adapter's last
movement over a quarter of the loss (`plait.training.learner`), no client's counted beyond 1,

    server learning rate <- server learning rate / sqrt(1 + t)

within bounds; the root, because curvature grows from round to round. Figures: `simulations/defaults`.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from plait.adapters import AdapterState
from plait.aggregation.rule import Outcome, RoundContext
from plait.settings.traits import Reasons, Trait

OptimizerState = Mapping[str, NDArray[np.generic]]
Adjusted = tuple[AdapterState, OptimizerState]
"""The step to apply, and the state to keep."""
ON_FACTORS: Reasons = {Trait.SAME_FACTORS: "it acts on each factor separately"}
"""What an optimizer needs that acts on them."""


class ServerOptimizer(Protocol):
    """A map from the outcome of a rule to the step that is taken: a frozen dataclass."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]
    needs: ClassVar[Reasons]
    """What a run must have for it (`plait.settings.traits`), besides what every optimizer needs."""

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


_SLOPES = "its step depends on slopes that single clients measure"
_SHORTEST, _LONGEST = 0.75, 1.5
_LARGEST_FALL = 0.25  # of the loss, as the trainer has it
_LEAST = 0.25  # of 1 + t: no step is more than twice as long as the one before


@dataclass(frozen=True)
class LineSearch:
    """A server learning rate that follows the slope which clients measure; 1 until one has sent any."""

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

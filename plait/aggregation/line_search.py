"""The server's step as long as the slopes where earlier steps ended say: a line search over rounds.

Clients measure the slope of their loss along the adapter's last movement where it ended (`plait.rounds.slope`). With s0
and s1 the slopes at both ends, a quadratic has its minimum at s0 / (s0 - s1) times the movement (the secant method). To
measure s0 as well, every client would have to keep a gradient. In its place stands what a local step may predict at
most, a quarter of the loss (`plait.training.learner`): in first rounds of four local steps -s0 was 0.15 to 0.27 of the
loss on eight texts. The root is taken because curvature grows from round to round, so that a whole correction goes too
far. After every round, with t the mean of s1 over a quarter of the loss, no client's counted beyond 1,

    server learning rate <- server learning rate / sqrt(1 + t)

within bounds. Where several steps were taken back at once, the last movement was not the server's step, and no slope
along it counts. Figures: `simulations/defaults`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from plait.adapters import AdapterState
from plait.aggregation.round import Outcome, RoundContext
from plait.aggregation.server_optimizer import ON_FACTORS, Adjusted, OptimizerState
from plait.traits import Reasons, Trait

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
    """The mean of clients' slopes as a part of the most that a local step may predict; None if no client measured any.

    Args:
        measured: (slope over loss, NaN if it was not measured; weight) of each client.
    """
    known = [
        (max(-1.0, min(1.0, slope / _LARGEST_FALL)), weight) for slope, weight in measured if not math.isnan(slope)
    ]
    total = math.fsum(weight for _, weight in known)
    return math.fsum(slope * weight for slope, weight in known) / total if known else None


LINE_SEARCH = LineSearch()

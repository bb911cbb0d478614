"""All deltas of a round side by side, for rules that need all of them at once; memory grows with the cohort."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from plait.adapters import AdapterState, Float32
from plait.aggregation.contribution import Contribution
from plait.aggregation.round import Outcome, RoundContext

# Elements of the adapter for which the values of all clients are processed together.
_BLOCK_ELEMENTS = 1 << 14


class Stacked:
    """Stores every delta of a round; the rule combines them at its end.

    Args:
        combine: from the stored deltas to the outcome.
    """

    def __init__(self, context: RoundContext, combine: Callable[[Stacked], Outcome]) -> None:
        self.context = context
        self.deltas: list[Float32] = []
        self.weights: list[float] = []
        self._combine = combine

    def add(self, contribution: Contribution) -> None:
        """Store one client's delta."""
        self.deltas.append(contribution.delta.flat)
        self.weights.append(contribution.weight)

    def finish(self) -> Outcome:
        """The outcome of all of them."""
        return self._combine(self)

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.float64]]]:
        """Parts of the adapter and the values of all clients there, (clients, elements)."""
        for start in range(0, self.context.geometry.layout.size, _BLOCK_ELEMENTS):
            part = slice(start, start + _BLOCK_ELEMENTS)
            yield part, np.array([delta[part] for delta in self.deltas], np.float64)

    def outcome(self, flat: NDArray[np.float64], **figures: float) -> Outcome:
        """`flat`, (layout.size,), as a step."""
        return Outcome(AdapterState(self.context.geometry.layout, flat.astype(np.float32)), figures=figures)

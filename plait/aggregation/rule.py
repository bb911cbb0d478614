"""What every aggregation rule is: a pass over the updates of one round that ends in the next adapter.

A rule sees decoded float32 deltas and weights, never bytes, sockets or files. Updates come in client order, one at a
time, so that memory does not grow with the cohort.
"""

from __future__ import annotations

from typing import Protocol

from plait.adapters import AdapterState


class Accumulator(Protocol):
    """One round under way."""

    def add(self, delta: AdapterState, weight: float) -> None:
        """Take in one client's delta.

        Args:
            delta: the client's adapter after training minus the adapter that it received.
            weight: positive; rules normalise by the sum of weights.
        """
        ...

    def finish(self) -> AdapterState:
        """The delta of the whole cohort, to be added to the adapter that the clients received.

        Raises:
            ValueError: nothing was added.
        """
        ...


class Rule(Protocol):
    """A way to combine updates.

    Attributes:
        name: what the user gives to ``--rule``.
        computes: one line that says what the result is, and where it is not the exact mean.
        linear: whether the result is a weighted sum of the deltas (and so works under secure aggregation).
    """

    @property
    def name(self) -> str:
        """See above."""
        ...

    @property
    def computes(self) -> str:
        """See above."""
        ...

    @property
    def linear(self) -> bool:
        """See above."""
        ...

    def begin(self, received: AdapterState) -> Accumulator:
        """Start a round in which every client received `received`."""
        ...

"""One round of aggregation: its context, its accumulator and its outcome.

An accumulator sees decoded float32 deltas and weights, never bytes, sockets or files. Updates come in client order, one
at a time, so memory does not grow with the cohort unless the rule needs all updates at once. A rule returns state that
it carries over as plain arrays, and gets it in the next round. Knows no rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from plait.adapters import AdapterState
from plait.aggregation.contribution import Contribution
from plait.aggregation.geometry import Geometry

Memory = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, eq=False)
class RoundContext:
    """What is known when a round begins.

    Attributes:
        round: its number, from 1.
        master: the server's adapter; clients received it, or what `projection.fitted` made of it for their rank.
        initial: the adapter that the run began with, in the master's layout.
        cohort: the distinct geometries that clients of this round may have; empty where all have the master's.
        memory: the rule's state from the previous round; empty at first.
    """

    round: int
    master: AdapterState
    geometry: Geometry
    initial: AdapterState
    seed: int = 0
    cohort: tuple[Geometry, ...] = ()
    memory: Memory = field(default_factory=dict[str, NDArray[np.generic]])

    @property
    def one_rank(self) -> bool:
        """Whether all clients have the master's geometry."""
        return not self.cohort


@dataclass(frozen=True, eq=False)
class Outcome:
    """The result of a round.

    Attributes:
        step: to be added to the master.
        figures: numbers for the ledger, for example a certified bound of the error.
        slope: of the clients' losses along the server's last movement where it ended, mean over those that measured it,
            as a part of the most that a local step may predict; None if none has; set by the caller.
    """

    step: AdapterState
    memory: Memory = field(default_factory=dict[str, NDArray[np.generic]])
    figures: Mapping[str, float] = field(default_factory=dict[str, float])
    slope: float | None = None


class Accumulator(Protocol):
    """A round in progress."""

    def add(self, contribution: Contribution) -> None:
        """Add one client's delta.

        Raises:
            PeerError: it is invalid, or this rule cannot take it; nothing was changed.
        """
        ...

    def finish(self) -> Outcome:
        """The outcome of the whole cohort.

        Raises:
            ValueError: nothing was added.
        """
        ...

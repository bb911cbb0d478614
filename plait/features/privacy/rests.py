"""Clients that rest between two rounds of theirs: how much one of them can move in a whole run.

A client that takes part in rounds at least b apart moves at most ceil(rounds / b) of the sums, each by the clip norm.
With independent noise in every round all of these compose as one Gaussian mechanism of sensitivity
sqrt(ceil(rounds / b)) (Choquette-Choo et al., arXiv 2306.08153, with a diagonal matrix). Knows no client.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Rests:
    """How long clients rest.

    Attributes:
        separation: fewest rounds from one that a client takes part in to its next, at least 2.
    """

    separation: int
    rounds: int

    def sensitivity(self, rounds: int) -> float:
        """How far one client moves the sums of the first `rounds` rounds together, in clip norms."""
        return math.sqrt(math.ceil(rounds / self.separation))

"""How many parameters travel in a round, before any codec.

Counts what a rule needs to send, which is less than the adapter where one side is frozen or personal. Knows no bytes:
those are measured, not counted here.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from plait.aggregation.geometry import BOTH_SIDES, Geometry, Side


@dataclass(frozen=True)
class Traffic:
    """Parameters that one client sends and receives in a round; the mean where rounds differ."""

    uplink: float
    downlink: float


def parameters(geometry: Geometry, sides: Collection[Side] = BOTH_SIDES) -> int:
    """Elements of the given sides and of everything outside the pairs."""
    return geometry.others_size + sum(geometry.side_size(side) for side in sides)

"""What a run's updates and broadcasts take on the wire."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Links:
    """Bits for each parameter of an adapter.

    Attributes:
        more_down: of what is sent beside it.
        is_rounded: whether updates are rounded to a grid, whatever their codec is.
    """

    up: float
    down: float
    more_down: float = 0.0
    is_rounded: bool = False

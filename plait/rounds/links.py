"""What a run's updates take on the wire."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Links:
    """Bits for each parameter of an adapter.

    Attributes:
        up: of an update.
        more_down: of what a client is sent beside a broadcast.
    """

    up: float
    more_down: float = 0.0

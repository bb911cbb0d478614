"""How long to wait before trying again: exponential backoff with full jitter.

Full jitter (a wait drawn between nothing and the bound) spreads out the nodes that one server lost at the same moment.
A server that was restarted is back within seconds, so waits stay short for the first minutes.
"""

from __future__ import annotations

import random
from collections.abc import Callable

FIRST_S = 0.5
SOON_S, SOON_FOR_S = 5.0, 120.0
MOST_S = 60.0


class Backoff:
    """Waits that grow until something works.

    Args:
        first_s: bound of the first wait, in seconds; it doubles with every further one.
        most_s: bound of all waits; 5 seconds for the first two minutes of waiting.
        draw: a number between its two arguments, uniformly.
    """

    def __init__(
        self,
        *,
        first_s: float = FIRST_S,
        most_s: float = MOST_S,
        draw: Callable[[float, float], float] | None = None,
    ) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._draw = draw or random.SystemRandom().uniform
        self._bound_s = first_s
        self._waited_s = 0.0

    def next_s(self) -> float:
        """Seconds to wait now."""
        wait_s = self._draw(0.0, self._bound_s)
        self._waited_s += wait_s
        most_s = min(SOON_S, self._most_s) if self._waited_s < SOON_FOR_S else self._most_s
        self._bound_s = min(2 * self._bound_s, most_s)
        return wait_s

    def reset(self) -> None:
        """It worked: the next wait is short again."""
        self._bound_s, self._waited_s = self._first_s, 0.0

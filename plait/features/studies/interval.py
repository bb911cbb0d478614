"""95 % intervals of a mean over seeds, by Student's distribution.

The distribution function is the finite sum of Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.7.3 and
26.7.4, so that two or three seeds get the exact interval.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import cache

_COVERAGE = 0.95


def margin_of_mean(values: Sequence[float]) -> float | None:
    """Half of the 95 % interval of the mean of independent values; None for fewer than two."""
    if len(values) < 2:
        return None
    return _quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))


@cache
def _quantile(freedom: int) -> float:
    """The t within which 95 % of Student's distribution lies."""
    low, high = 0.0, 13.0  # 12.7 with one degree of freedom
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < _COVERAGE else (low, middle)
    return high


def _within(t: float, freedom: int) -> float:
    """The probability of less than t, in absolute value."""
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for step in range(2 + odd, freedom + 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (step - 1) / step
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total

"""95 % intervals of a mean over seeds, by Student's distribution."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def margin_of_mean(values: Sequence[float]) -> float | None:
    """Half of the 95 % interval of the mean of independent values; None for fewer than two."""
    if len(values) < 2:
        return None
    from scipy.special import stdtrit  # a tenth of the time that scipy.stats takes to load

    return float(stdtrit(len(values) - 1, 0.975)) * statistics.stdev(values) / math.sqrt(len(values))

"""How much a client's update counts where that follows from its examples: in proportion, within a bound.

Nobody can check how many examples a client has. So none counts more than ten times the median of those that it is
averaged with; of two middle ones the smaller is the median, so that one of two clients cannot move it. Ten, as for
norms (norm_bound.py): wide enough for clients whose data differ much in size, and no single claim can be the mean.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping

WEIGHT_RATIO = 10.0


def bounded(examples: Mapping[str, int], ratio: float) -> dict[str, float]:
    """The weights of a round's clients.

    Args:
        examples: of each client, as its update states them; at least one client.
        ratio: no weight is more than so many times the median.
    """
    limit = ratio * statistics.median_low(examples.values())
    return {client: min(float(count), limit) for client, count in examples.items()}

"""Weights of updates by their clients' examples: proportional, within a bound.

A client's number of examples cannot be checked, so none weighs more than ten times the median of its round. Of two
middle values the smaller is the median, so that one of two clients cannot move it. Ten, as for norms (norm_bound.py):
wide enough for clients with very different amounts of data, and no single claim can dominate the mean.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping

WEIGHT_RATIO = 10.0


def bounded(examples: Mapping[str, int], ratio: float) -> dict[str, float]:
    """The weights of a round's clients.

    Args:
        examples: of each client, as its update states them; at least one client.
        ratio: largest allowed multiple of the median.
    """
    limit = ratio * statistics.median_low(examples.values())
    return {client: min(float(count), limit) for client, count in examples.items()}

"""The median of the means of groups of clients."""

from typing import Annotated

import numpy as np
from pydantic import Field

from plait import RoundContext, Updates
from plait.aggregation.own_rule import rule


@rule(least_clients=3)
def median_of_means(
    updates: Updates,
    ctx: RoundContext,
    *,
    groups: Annotated[int, Field(ge=1, description="number of groups")] = 3,
) -> np.ndarray:
    """Median of the means of groups of clients; withstands bad clients in less than half of the groups."""
    means = [group.mean(axis=0) for group in np.array_split(updates.deltas, groups) if len(group)]
    return np.median(means, axis=0)

"""Disjoint groups of a round's clients, each with a masked sum of its own, and the groups whose means lie apart.

Under masks no single client's vector can be measured, so a member can move the mean of a round as far as its ring has
room. In groups it moves its own group's mean alone, and that can be compared with the others'. A group that is left in
moves the round's mean by at most `FAR` times what groups usually lie apart, over the number of groups. A sum of fewer
clients tells more of each, so no group is small. Knows no channel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from plait.adapters.state import Float32

LEAST_GROUP = 8
"""Clients of a group at least: a sum of fewer tells too much of each."""
LEAST_GROUPS, MOST_GROUPS = 3, 8
FAR = 3.0
"""A group is left out whose mean is this many times as far from the median of all means as the median group."""


def groups_for(clients: int) -> int:
    """Groups of a round of so many; 1 where there are too few for a median of groups."""
    count = min(MOST_GROUPS, clients // LEAST_GROUP)
    return count if count >= LEAST_GROUPS else 1


def deal(names: Sequence[str], count: int, key: bytes) -> tuple[tuple[str, ...], ...]:
    """The names in `count` groups, whose sizes differ by at most one.

    Args:
        key: of the order; the same key gives the same groups.
    """
    order = sorted(names, key=lambda name: hashlib.sha256(key + name.encode()).digest())
    return tuple(tuple(sorted(order[at::count])) for at in range(count))


def distances(means: Sequence[Float32]) -> tuple[float, ...]:
    """How far each mean lies from the median of all, number by number, over the median of these distances.

    Args:
        means: at least three, each (size,).
    """
    middle = np.median(np.stack(means), axis=0)
    far = [float(np.linalg.norm(mean - middle)) for mean in means]
    usual = float(np.median(far))
    return tuple(each / usual if usual else 1.0 if not each else np.inf for each in far)

"""Which clients share masks and secrets: all with all, or above 128 clients each with 64 others.

Bell et al., "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead" (CCS 2020): a ring lattice over a random
order. The order follows from the roster: a server that wants its own clients around one victim has to try rosters,
which is out of reach while they are a tenth of all. Knows no key.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

from plait.features.secagg.groups import groups_for

COMPLETE = 128
"""The most clients that are all each other's neighbours."""
NEIGHBOURS = 64
LEAST_CLIENTS = 3
"""In a sum of two each client knows the other's part."""


def threshold_of(count: int) -> int:
    """Two thirds of this many: two groups that large share an honest member while fewer than a third collude."""
    return -(-2 * count // 3)


def least_survivors(clients: int) -> int:
    """The fewest clients in a sum of a roster of this size."""
    return max(LEAST_CLIENTS, threshold_of(clients))


def least_roster(invited: int) -> int:
    """The fewest clients of a roster whose sums have as many as those of a roster of two thirds of the invited."""
    fewest = least_survivors(least_survivors(invited))
    return next(
        count for count in range(LEAST_CLIENTS, max(invited, LEAST_CLIENTS) + 1) if least_survivors(count) >= fewest
    )


def fewest_in_sum(invited: int, evaluators: int = 0, *, noised: bool = False) -> int:
    """The fewest clients in a sum: two thirds of a group must offer keys, and two thirds of these be left.

    Args:
        evaluators: to an evaluation; 0 for as many.
        noised: whether clients add noise, which is in the sum of all: such a round has one group.
    """
    group = invited if noised else invited // groups_for(invited)
    return least_survivors(least_survivors(min(group, evaluators or invited)))


@lru_cache(maxsize=16)
def neighbours(count: int, roster: bytes) -> tuple[tuple[int, ...], ...]:
    """Each client's neighbours, by its place in the roster, in ascending order."""
    if count <= COMPLETE:
        return tuple(tuple(other for other in range(count) if other != one) for one in range(count))
    order = sorted(range(count), key=lambda one: hashlib.sha256(roster + one.to_bytes(4, "big")).digest())
    half = NEIGHBOURS // 2
    steps = [step for step in range(-half, half + 1) if step]
    found = {one: tuple(sorted(order[(at + step) % count] for step in steps)) for at, one in enumerate(order)}
    return tuple(found[one] for one in range(count))

"""How many clients a masked sum needs, by the size of its round: for its groups, its sums and against colluders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

LEAST_GROUP = 8
"""Clients of a group at least: a sum of fewer reveals too much of each."""
LEAST_GROUPS, MOST_GROUPS = 3, 8
COMPLETE = 256
"""The most clients that are all each other's neighbours."""
LEAST_CLIENTS = 3
"""In a sum of two each client knows the other's part."""


def groups_for(clients: int) -> int:
    """Groups of a round of so many; 1 where there are too few for a median of groups."""
    count = min(MOST_GROUPS, clients // LEAST_GROUP)
    return count if count >= LEAST_GROUPS else 1


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


def colluding(clients: int) -> int:
    """The most clients of a roster of this size that the server gains nothing from (see `plait.wire.masked_roster`).

    One more could get two lists signed, or be all but one in a sum. Above `COMPLETE` it is what the chance is added up
    for.
    """
    least = least_survivors(clients)
    return min(2 * least - clients - 1, least - 2) if clients <= COMPLETE else clients // 10


@dataclass(frozen=True)
class Thresholds:
    """What protects the clients of a round, whatever its server does."""

    roster: int  # the fewest clients that a sum begins with: two thirds of a group
    survivors: int  # the fewest clients in a sum: two thirds of these
    colluding: int  # the most clients that gain nothing from helping the server; it may put them all into one group

    @classmethod
    def of(cls, invited: int, groups: int = 1) -> Self:
        """Those of a round, or an evaluation, of so many."""
        roster, most = least_survivors(invited // groups), -(-invited // groups)
        # An evaluation may begin with one client less.
        sizes = range(least_roster(invited // groups), max(most, LEAST_CLIENTS) + 1)
        return cls(roster, least_survivors(roster), min(map(colluding, sizes)))

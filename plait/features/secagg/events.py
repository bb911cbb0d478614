"""What the ledger of a run with secure aggregation says of its sums."""

from __future__ import annotations

from plait.rounds.events import Count, Event, Number


class SumUnmasked(Event):
    """The masks were taken off a sum over a group of clients; nothing else of what they sent is known.

    Attributes:
        round: that it belongs to.
        purpose: ``train`` or ``evaluate``.
        invited: clients asked for keys. roster: that offered some. shared: that shared their secrets.
        clients: whose numbers are in the sum.
        threshold: fewest clients that a sum is unmasked for.
        neighbours: of each client, with whom it shares masks.
        bits: of each number.
        unit: size of the grid that updates were rounded to.
        certified: whether all clients proved their node keys to each other by certificates.
        noised: whether each client added its share of the noise of differential privacy.
        evaluated_by: names of the clients, of a sum of losses.
    """

    event = "sum_unmasked"
    is_public = True
    round: Count
    purpose: str = ""
    invited: Count = 0
    roster: Count = 0
    shared: Count = 0
    clients: Count
    threshold: Count = 0
    neighbours: Count = 0
    bits: Count = 0
    unit: Number = 0.0
    certified: bool = False
    noised: bool = False
    evaluated_by: tuple[str, ...] = ()


class GroupLeftOut(Event):
    """The mean of a group of clients lies far from those of the other groups, so its sum does not count.

    Attributes:
        round: that it belongs to.
        clients: of the group; at least one of them may depart from the protocol.
        distance: from the median of the groups' means, over the median of these distances.
    """

    event = "group_left_out"
    is_public = True
    round: Count
    clients: tuple[str, ...]
    distance: Number


class EvaluationMissed(Event):
    """The masked sum of the losses after `round` is impossible, lost or unavailable.

    Attributes:
        round: whose adapter is not evaluated.
        detail: why.
    """

    event = "evaluation_missed"
    is_public = True
    round: Count
    detail: str = ""

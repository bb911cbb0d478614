"""Who is invited to evaluate under masks, so that clients need not refuse: sums of losses that tell of few clients.

Clients come and go, but a sum of losses may not differ from an earlier one in fewer clients than a masked sum has (see
data_journal.py). So those of an earlier evaluation are invited again, of the largest; where one of them is gone, some
others stay out with it. Knows no channel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

from plait.features.secagg.graph import LEAST_CLIENTS
from plait.features.secagg.sum_journal import fewest_apart

Clients = frozenset[str]


def evaluators_of(
    clients: Sequence[str],
    present: Collection[str],
    *,
    earlier: Sequence[Clients],
    declined: Collection[Clients],
    least: int,
    order: bytes,
) -> tuple[str, ...]:
    """The clients to invite, by name; none where every sum would reveal a few clients.

    Args:
        declined: clients whose sum some of them would not unmask, because of what an earlier run evaluated.
    """
    here = frozenset(present)
    if again := [known for known in earlier if known <= here and known not in declined]:
        return tuple(sorted(max(again, key=len)))
    leaving = sorted(clients, key=lambda name: hashlib.sha256(order + name.encode()).digest())
    for out in range(len(leaving) - least + 1):
        chosen = frozenset(leaving[out:])
        # One that came or went made a sum that was declined; without two more it is three apart from the earlier one.
        is_another = all(len(chosen ^ other) >= LEAST_CLIENTS - 1 for other in declined)
        if is_another and _is_apart(chosen, earlier):
            return tuple(sorted(chosen))
    return ()


def _is_apart(chosen: Clients, earlier: Sequence[Clients]) -> bool:
    return all(len(chosen ^ other) >= LEAST_CLIENTS for other in earlier) and (
        fewest_apart([*dict.fromkeys(earlier), chosen]) >= LEAST_CLIENTS
    )

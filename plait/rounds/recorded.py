"""What the ledger of a run that goes on holds already, so that nothing is told or asked for twice.

Knows only events; what they mean for the next round is the coordinator's affair.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from plait.rounds.channel import Purpose
from plait.rounds.events import (
    ClientsDescribed,
    Evaluated,
    Event,
    ReplyReceived,
    RoundFinished,
    RoundStarted,
    RunStarted,
    UpdateReceived,
    UpdateRefused,
)


def weight_ratio_in(events: Sequence[Event]) -> float:
    """How many times the median a weight may be in a run; infinite in one that began before there was a bound."""
    ratio = next((event.weight_ratio for event in events if isinstance(event, RunStarted)), None)
    return math.inf if ratio is None else ratio


@dataclass(frozen=True)
class Recorded:
    """What the ledger of a run that is gone on with holds already.

    Attributes:
        begun: whether the run has begun: enough clients were there once.
        finished: the last round that it calls finished.
        evaluated: the last round that it has losses of; -1 for none.
        received: rounds and clients of the updates that it has.
        evaluations: rounds and clients of the losses that it has.
        clients: the clients that it knows.
        misfits: rounds, clients and reasons of the refusals that it has.
    """

    begun: bool
    finished: int
    evaluated: int
    received: frozenset[tuple[int, str]]
    evaluations: frozenset[tuple[int, str]]
    clients: frozenset[str]
    misfits: frozenset[tuple[int, str, str]]

    @classmethod
    def of(cls, events: Sequence[Event]) -> Recorded:
        """All that these events say of it."""
        return cls(
            begun=any(isinstance(event, (Evaluated, RoundStarted)) for event in events),
            finished=max((event.round for event in events if isinstance(event, RoundFinished)), default=0),
            evaluated=max((event.round for event in events if isinstance(event, Evaluated)), default=-1),
            received=frozenset((event.round, event.client) for event in events if isinstance(event, UpdateReceived)),
            evaluations=frozenset(
                (event.round, event.client)
                for event in events
                if isinstance(event, ReplyReceived) and event.purpose == Purpose.EVALUATE.value
            ),
            clients=frozenset(
                client.client for event in events if isinstance(event, ClientsDescribed) for client in event.clients
            ),
            misfits=frozenset(
                (event.round, event.client, event.reason) for event in events if isinstance(event, UpdateRefused)
            ),
        )

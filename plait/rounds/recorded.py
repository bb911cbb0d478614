"""The contents of a resumed run's ledger, so that nothing is recorded or requested twice.

Knows only events; the coordinator decides what they mean for the next round.
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
    """Largest weight in a run, as a multiple of the median; infinite for a run that began before there was a bound."""
    ratio = next((event.weight_ratio for event in events if isinstance(event, RunStarted)), None)
    return math.inf if ratio is None else ratio


@dataclass(frozen=True)
class Recorded:
    """The contents of a resumed run's ledger.

    Attributes:
        begun: whether the run has begun: enough clients had joined once.
        finished: the last finished round.
        evaluated: the last evaluated round; -1 for none.
        received: rounds and clients of the recorded updates.
        evaluations: rounds and clients of the recorded losses.
        clients: the known clients.
        misfits: rounds, clients and reasons of the recorded refusals.
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
        """The contents of these events."""
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

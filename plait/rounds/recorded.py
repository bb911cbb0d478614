"""The contents of a resumed run's ledger, so that nothing is recorded or requested twice.

Knows only events; the coordinator decides what they mean for the next round.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from plait.rounds.channel import Purpose
from plait.rounds.events import (
    ClientReplaced,
    ClientsDescribed,
    EndedEarly,
    Evaluated,
    Event,
    ReplyReceived,
    RoundFinished,
    RoundStarted,
    RunFinished,
    RunStarted,
    StepTakenBack,
    UpdateReceived,
    UpdateRefused,
)
from plait.rounds.watch import standing_after


def is_finished(events: Sequence[Event]) -> bool:
    """Whether all rounds of the run are done."""
    return any(isinstance(event, RunFinished) for event in events)


def weight_ratio_in(events: Sequence[Event]) -> float:
    """Largest weight in a run, as a multiple of the median; infinite for a run without a bound."""
    ratio = next((event.weight_ratio for event in events if isinstance(event, RunStarted)), None)
    return math.inf if ratio is None else ratio


def evaluations_in(events: Sequence[Event]) -> tuple[Evaluated, ...]:
    """The evaluations in the order of their rounds; of one that was repeated, the last."""
    found = {event.round: event for event in events if isinstance(event, Evaluated)}
    return tuple(found[number] for number in sorted(found))


@dataclass(frozen=True)
class Kept:
    """The adapter that a run publishes.

    Attributes:
        round: the round that produced it.
        adapter: its digest, as hex.
    """

    round: int
    adapter: str


def kept_in(events: Sequence[Event], *, best: bool) -> Kept | None:
    """The adapter that the run of these events publishes; None before there is one.

    Args:
        events: of a ledger, from its beginning.
        best: whether it is that of the evaluation with the lowest loss, not the newest.
    """
    if best:
        lowest = standing_after(evaluations_in(events)).best
        return Kept(lowest.round, lowest.adapter) if lowest else None
    steps = (event for event in events if isinstance(event, (RoundFinished, StepTakenBack)) and event.adapter)
    newest = max(steps, key=lambda event: (event.round, event.seq), default=None)
    if isinstance(newest, StepTakenBack) and newest.ends:
        return Kept(newest.accepted, newest.adapter)
    return Kept(newest.round, newest.adapter) if newest else None


def participants_in(events: Sequence[Event]) -> dict[int, frozenset[str]]:
    """The clients whose updates came in, by round."""
    found: dict[int, set[str]] = {}
    for event in events:
        if isinstance(event, UpdateReceived):
            found.setdefault(event.round, set()).add(event.client)
    return {number: frozenset(clients) for number, clients in found.items()}


@dataclass(frozen=True)
class Recorded:
    """The contents of a resumed run's ledger.

    Attributes:
        begun: whether the run has begun: enough clients had joined once.
        received: rounds and clients of the recorded updates.
        folded_in: of an asynchronous run, rounds and clients of the updates of each fold, in the order of arrival.
        evaluations: rounds and clients of the recorded losses.
        misfits: rounds, clients and reasons of the recorded refusals.
        held_out: the recorded evaluations, in the order of their rounds.
        taken_back: rounds whose steps are recorded as taken back, or as impossible to take back.
        ended_early: whether it records that the run ended before its last round.
        steps: that clients were asked for, by round and client, where each has its own number.
        epsilons: what private records have cost so far, by client, as it said last.
    """

    begun: bool
    finished: int
    received: frozenset[tuple[int, str]]
    folded_in: Mapping[int, Sequence[tuple[int, str]]]
    evaluations: frozenset[tuple[int, str]]
    clients: frozenset[str]
    misfits: frozenset[tuple[int, str, str]]
    held_out: tuple[Evaluated, ...]
    taken_back: frozenset[int]
    ended_early: bool
    steps: Mapping[tuple[int, str], int]
    epsilons: Mapping[str, float]

    @classmethod
    def of(cls, events: Sequence[Event]) -> Recorded:
        """The contents of these events."""
        return cls(
            begun=any(isinstance(event, (Evaluated, RoundStarted)) for event in events),
            finished=max((event.round for event in events if isinstance(event, RoundFinished)), default=0),
            received=frozenset((event.round, event.client) for event in events if isinstance(event, UpdateReceived)),
            folded_in=_folded_in(events),
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
            held_out=evaluations_in(events),
            taken_back=frozenset(event.round for event in events if isinstance(event, StepTakenBack)),
            ended_early=any(isinstance(event, EndedEarly) for event in events),
            steps={
                asked: number
                for event in events
                if isinstance(event, (RoundStarted, ClientReplaced))
                for asked, number in steps_in(event).items()
            },
            epsilons={
                event.client: event.epsilon
                for event in events
                if isinstance(event, UpdateReceived) and event.epsilon is not None
            },
        )


def _folded_in(events: Sequence[Event]) -> dict[int, list[tuple[int, str]]]:
    found: dict[int, list[tuple[int, str]]] = {}
    for event in events:
        if isinstance(event, UpdateReceived) and event.fold is not None:
            found.setdefault(event.fold, []).append((event.round, event.client))
    return found


def steps_in(event: RoundStarted | ClientReplaced) -> dict[tuple[int, str], int]:
    """The steps that clients were asked for, by round and client; none if all were asked for as many."""
    if isinstance(event, ClientReplaced):
        return {(event.round, event.by): event.steps} if event.steps else {}
    return {(event.round, client): number for client, number in (event.steps or {}).items()}

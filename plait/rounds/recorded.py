"""The contents of a resumed run's ledger, so that nothing is recorded or requested twice.

Knows only events; the coordinator decides what they mean for the next round.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from plait.rounds.events import Evaluated, Event, UpdateReceived
from plait.rounds.run_view import RunView
from plait.rounds.watch import guard_after


@dataclass(frozen=True)
class Kept:
    """The adapter that a run publishes.

    Attributes:
        round: the round that produced it.
    """

    round: int
    adapter: str


def kept_in(view: RunView, *, keep: str) -> Kept | None:
    """The adapter that a run publishes, as far as its ledger says; None before there is one, or nothing says which.

    Args:
        keep: the run's setting: which adapters are published.
    """
    if keep != "last":
        kept = guard_after(keep, view.held_out).kept
        return Kept(kept.round, kept.adapter) if kept else None
    steps = [event for event in (*view.rounds.values(), *view.taken_back.values()) if event.adapter]
    newest = max(steps, key=lambda event: (event.round, event.seq), default=None)
    return Kept(newest.round, newest.adapter or "") if newest else None


@dataclass(frozen=True)
class Recorded:
    """The contents of a resumed run's ledger.

    Attributes:
        begun: whether the run has begun: enough clients had joined once.
        cohort: the newest round that began, and its clients.
        received: rounds and clients of the recorded updates.
        folded_in: of an asynchronous run, rounds and clients of the updates of each fold, in the order of arrival.
        evaluations: rounds and clients of the recorded losses.
        misfits: rounds, clients and reasons of the recorded refusals.
        held_out: the recorded evaluations, in the order of their rounds.
        taken_back: rounds whose steps are recorded as taken back, or as impossible to take back.
        not_published: rounds whose adapters are recorded as not published.
        ended_early: whether it records that the run ended before its last round.
        steps: that clients were asked for, by round and client, where each has its own number.
        epsilons: what private records have cost so far, by client, as it said last.
        newest: the newest update of each client.
    """

    begun: bool
    finished: int
    cohort: tuple[int, tuple[str, ...]]
    received: frozenset[tuple[int, str]]
    folded_in: Mapping[int, Sequence[tuple[int, str]]]
    evaluations: frozenset[tuple[int, str]]
    clients: frozenset[str]
    misfits: frozenset[tuple[int, str, str]]
    held_out: tuple[Evaluated, ...]
    taken_back: frozenset[int]
    not_published: frozenset[int]
    ended_early: bool
    steps: Mapping[tuple[int, str], int]
    epsilons: Mapping[str, float]

    newest: Mapping[str, UpdateReceived]

    @classmethod
    def of(cls, events: Iterable[Event]) -> Recorded:
        """The contents of these events."""
        view = RunView.after(events)
        heard = view.updates.values()
        folded_in: dict[int, list[tuple[int, str]]] = {}
        for event in heard:
            if event.fold is not None:
                folded_in.setdefault(event.fold, []).append((event.round, event.client))
        return cls(
            begun=bool(view.evaluations) or view.round_began is not None,
            finished=view.done,
            cohort=(view.round, tuple(view.cohort)),
            received=frozenset(view.updates),
            folded_in=folded_in,
            evaluations=frozenset(view.evaluated_by),
            clients=frozenset(view.clients),
            misfits=frozenset((event.round, event.client, event.reason) for event in view.refusals),
            held_out=view.held_out,
            taken_back=frozenset(view.taken_back),
            not_published=frozenset(view.not_published),
            ended_early=view.ended_early is not None,
            steps=view.asked,
            epsilons={event.client: event.epsilon for event in heard if event.epsilon is not None},
            newest={event.client: event for event in heard},
        )

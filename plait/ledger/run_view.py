"""A run as its ledger describes it, folded event by event: from a whole ledger, or live while it grows.

Bytes are summed over everything sent, repeated rounds included; of what was recorded twice, the last record counts.
Knows nothing of how anything is shown.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from plait.ledger import events
from plait.ledger.events import UpdateReceived
from plait.ledger.run_now import RunNow, Traffic
from plait.ledger.watch import guard_after
from plait.objectives import Objective


@dataclass
class RunView(RunNow):
    """Everything that a ledger records about a run."""

    rounds: dict[int, events.RoundFinished] = field(default_factory=dict[int, events.RoundFinished])
    evaluations: dict[int, events.Evaluated] = field(default_factory=dict[int, events.Evaluated])
    # bytes sent in both directions before each evaluation
    sent_bytes_before: dict[int, int] = field(default_factory=dict[int, int])
    updates: dict[tuple[int, str], events.UpdateReceived] = field(
        default_factory=dict[tuple[int, str], events.UpdateReceived]
    )
    refusals: list[events.UpdateRefused] = field(default_factory=list[events.UpdateRefused])
    taken_back: dict[int, events.StepTakenBack] = field(default_factory=dict[int, events.StepTakenBack])
    not_published: dict[int, events.NotPublished] = field(default_factory=dict[int, events.NotPublished])
    references: dict[str, events.Reference] = field(default_factory=dict[str, events.Reference])
    audited: events.Audited | None = None
    erased: list[str] = field(default_factory=list[str])  # clients whose updates were, in order
    # those of fleets, masks, privacy and withdrawals, by kind; of what a run repeated, the last
    other_events: dict[str, list[events.Event]] = field(default_factory=dict[str, list[events.Event]])
    traffic: dict[tuple[int, str], Traffic] = field(default_factory=dict[tuple[int, str], Traffic])
    # optimizer steps of clients that have a number of their own, by (round, client)
    asked: dict[tuple[int, str], int] = field(default_factory=dict[tuple[int, str], int])
    # rounds and clients of the losses that came
    evaluated_by: set[tuple[int, str]] = field(default_factory=set[tuple[int, str]])

    @classmethod
    def of(cls, recorded: Iterable[events.Event]) -> Self:
        """The view of a whole ledger."""
        view = cls.after(recorded)
        _ = view.start  # refuses what is no run's
        return view

    @classmethod
    def after(cls, recorded: Iterable[events.Event]) -> Self:
        """The view after these events, which may be none."""
        view = cls()
        for event in recorded:
            view.take(event)
        return view

    def take(self, event: events.Event) -> None:
        """Process the next event."""
        super().take(event)
        match event:
            case events.RoundStarted() | events.ClientReplaced():
                self.asked |= event.asked
            case events.ReplyReceived(purpose="evaluate"):
                self.evaluated_by.add((event.round, event.client))
            case events.UpdateReceived():
                self.updates[event.round, event.client] = event
            case events.UpdateRefused():
                self.refusals.append(event)
            case events.Resumed(round=finished):
                is_evaluated = finished in self.evaluations
                for recorded in self.other_events.values():
                    recorded[:] = [
                        each for each in recorded if not each.is_repeated(finished, is_evaluated=is_evaluated)
                    ]
            case events.RoundFinished():
                self.rounds[event.round] = event
            case events.Evaluated():
                self.evaluations[event.round] = event
                self.sent_bytes_before[event.round] = self.sent.total_bytes
            case events.StepTakenBack():
                self.taken_back[event.round] = event
            case events.NotPublished():
                self.not_published[event.round] = event
            case events.Reference():
                self.references[event.kind] = event
            case events.Audited():
                self.audited = event
            case events.ClientErased():
                self.erased.append(event.client)
            case _ if event.event and event.event not in events.KINDS:
                self.other_events.setdefault(event.event, []).append(event)
            case _:
                pass

    def _count(self, number: int, client: str, traffic: Traffic) -> None:
        super()._count(number, client, traffic)
        if traffic.total_bytes:
            self.traffic[number, client] = self.traffic.get((number, client), Traffic()) + traffic

    @property
    def begun(self) -> bool:
        """Whether a round has begun, or the base is evaluated."""
        return bool(self.evaluations) or self.round_began is not None

    @property
    def held_out(self) -> tuple[events.Evaluated, ...]:
        """The evaluations in the order of their rounds; of one that was repeated, the last."""
        return tuple(self.evaluations[number] for number in sorted(self.evaluations))

    @property
    def virtual_s(self) -> float | None:
        """The run's time by its virtual clock; None without one."""
        times = [each.virtual_s for each in (*self.rounds.values(), *self.evaluations.values())]
        return max((time_s for time_s in times if time_s is not None), default=None)

    @property
    def wall_s(self) -> float:
        """Working time in seconds, without pauses between interruption and resumption."""
        return self.worked_s if self.end is None or self.end.wall_s is None else self.end.wall_s

    @property
    def is_personal(self) -> bool:
        """Whether clients keep a side of every pair, so that all losses are of personalized adapters."""
        return self.start.rule is not None and self.start.rule.personal != ""

    @property
    def is_classification(self) -> bool:
        """Whether examples have labels, so that there is an accuracy."""
        return self.start.base.task == "classification"

    @property
    def accuracy_name(self) -> str:
        """What an accuracy of this run is called; empty if it has none."""
        return "accuracy" if self.is_classification else self.learned.right

    @property
    def learned(self) -> Objective:
        """What clients learned."""
        return self.start.learned

    @property
    def client_names(self) -> tuple[str, ...]:
        """Every client that was described, evaluated or had an update accepted, in that order."""
        names = [*self.clients]
        names += [name for evaluation in self.evaluations.values() for name in sorted(evaluation.by_client)]
        names += [client for _, client in sorted(self.updates)]
        return tuple(dict.fromkeys(names))

    @property
    def client_count(self) -> int:
        """How many clients took part."""
        return len(self.client_names)

    @property
    def client_rounds(self) -> int:
        """Number of accepted updates."""
        return len(self.updates)

    def updates_in(self, number: int) -> list[UpdateReceived]:
        """The updates that a round's step is made of."""
        return [update for update in self.updates.values() if update.counted_in == number]

    @property
    def has_reward_margins(self) -> bool:
        """Whether evaluations are of preferences."""
        return any(evaluation.reward_margin is not None for evaluation in self.evaluations.values())

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The metrics that evaluations have, by name."""
        return tuple(dict.fromkeys(name for each in self.held_out for name in each.metrics or ()))

    @property
    def final_evaluation(self) -> events.Evaluated | None:
        """That of the published adapter, or the newest of an unfinished run; None before the first."""
        if self.end and self.end.kept_round in self.evaluations:
            return self.evaluations[self.end.kept_round]
        newest = max(self.evaluations, default=0)
        return self.evaluations[newest] if newest else None

    @property
    def is_better(self) -> bool | None:
        """Whether the adapter beats its base on held-out data; None if unknown, or chance may explain the change."""
        base, final = self.base_evaluation, self.final_evaluation
        if base is None or final is None or not final.round:
            return None
        change = final.change_since(base)
        return None if abs(change) <= (final.change_margin or 0.0) else change < 0

    @property
    def own_evaluation(self) -> events.MeanScore | None:
        """Each client's personalized adapter, beside the newest shared one; None if clients have none, or not yet."""
        newest = self.evaluations.get(max(self.evaluations, default=0))
        return newest.own if newest else None

    @property
    def train_tokens_per_s(self) -> float | None:
        """Training speed of a client: tokens per second of training, over all updates."""
        timed = [(update.tokens, update.train_s) for update in self.updates.values() if update.train_s]
        seconds = math.fsum(train_s for _, train_s in timed)
        return sum(tokens for tokens, _ in timed) / seconds if seconds else None


@dataclass(frozen=True)
class PublishedAdapter:
    """The adapter that a run publishes."""

    round: int
    adapter: str


def kept_in(view: RunView, *, keep: str) -> PublishedAdapter | None:
    """The adapter that a run publishes, as far as its ledger records; None before there is one, or if it is unknown."""
    if keep != "last":
        kept = guard_after(keep, view.held_out, str(view.settings.get("select-by", ""))).kept
        return PublishedAdapter(kept.round, kept.adapter) if kept else None
    steps = [event for event in (*view.rounds.values(), *view.taken_back.values()) if event.adapter]
    newest = max(steps, key=lambda event: (event.round, event.seq), default=None)
    return PublishedAdapter(newest.round, newest.adapter or "") if newest else None

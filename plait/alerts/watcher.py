"""When a rule has something to tell: from a federation's queue, a run's ledger, and who is away. Knows no file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from plait.adapters import Json
from plait.alerts.rules import Kind, Rule
from plait.queue import Entry, State
from plait.rounds import events

Alert = dict[str, Json]
"""What is told: ``alert`` (its kind), ``time``, ``text`` in a sentence, and figures. No settings, no clients' text."""


class Watcher:
    """One rule, and what it has seen.

    Args:
        rule: of which this is the memory.
        since: nothing that happened earlier is told, in seconds since 1970.
        clock: seconds since 1970.
    """

    def __init__(self, rule: Rule, *, since: float, clock: Callable[[], float] = time.time) -> None:
        self.rule = rule
        self._since = since
        self._clock = clock
        self._peer = "client"
        self._ended: set[str] = set()
        self._lost: set[str] = set()
        self._lowest: dict[str, float] = {}
        self._risen: set[str] = set()

    def of_queue(self, entries: Iterable[Entry]) -> list[Alert]:
        """Runs that have ended since the last look."""
        return [
            alert
            for entry in entries
            if entry.is_over and entry.ended is not None and entry.ended >= self._since
            for alert in self._end(entry.run, entry.state.value, by=entry.by, detail=entry.detail)
        ]

    def of_event(self, run: str, event: events.Event, *, is_queued: bool) -> list[Alert]:
        """What one event of a run's ledger has to tell.

        Args:
            run: its name.
            event: of its ledger.
            is_queued: whether a queue says when it ends.
        """
        is_new = event.time >= self._since
        match event:
            case events.RunStarted():
                self._peer = event.peer
                return []
            case events.RoundMissed() if is_new:
                text = (
                    f"round {event.round} of run {run} got too few updates ({event.received}), attempt {event.attempt}"
                )
                figures = {"run": run, "round": event.round, "attempt": event.attempt, "received": event.received}
                return self._tell(Kind.QUORUM_MISSED, text, **figures)
            case events.Evaluated():
                return self._evaluated(run, event, is_new=is_new)
            case events.RunFinished() if is_new and not is_queued:
                return self._end(run, State.FINISHED.value)
            case _:
                return []

    def of_away(self, away_s: Mapping[str, float]) -> list[Alert]:
        """Clients, or in a tree regions, that are away too long; each is told once until it is back.

        Args:
            away_s: how long each of them is away that was here since the server started.
        """
        limit_s = 60 * self.rule.after_minutes
        lost = {name for name, seconds in away_s.items() if seconds >= limit_s}
        new, self._lost = sorted(lost - self._lost), lost
        return [
            alert
            for name in new
            for alert in self._tell(
                Kind.CLIENT_LOST,
                f"{self._peer} {name} is away for {away_s[name] / 60:.0f} minutes",
                client=name,
                peer=self._peer,
                away_s=round(away_s[name], 1),
            )
        ]

    def interrupted(self, run: str) -> list[Alert]:
        """A server of one run has ended before its run."""
        return self._end(run, "interrupted")

    def _evaluated(self, run: str, event: events.Evaluated, *, is_new: bool) -> list[Alert]:
        lowest = min(event.loss, self._lowest.get(run, event.loss))
        self._lowest[run] = lowest
        if event.loss <= lowest + self.rule.rise * abs(lowest):
            self._risen.discard(run)
            return []
        if run in self._risen or not is_new:
            return []
        self._risen.add(run)
        return self._tell(
            Kind.LOSS_RISEN,
            f"held-out loss of run {run} is {event.loss:.4g} in round {event.round}, the lowest was {lowest:.4g}",
            run=run,
            round=event.round,
            loss=event.loss,
            lowest=lowest,
        )

    def _end(self, run: str, state: str, *, by: str = "", detail: str = "") -> list[Alert]:
        if run in self._ended:
            return []
        self._ended.add(run)
        why = f": {detail}" if detail else ""
        return self._tell(Kind.RUN_ENDED, f"run {run} is {state}{why}", run=run, state=state, by=by, detail=detail)

    def _tell(self, kind: Kind, text: str, **figures: Json) -> list[Alert]:
        if kind not in self.rule.on:
            return []
        return [{"alert": kind.value, "time": round(self._clock(), 3), "text": text, **figures}]

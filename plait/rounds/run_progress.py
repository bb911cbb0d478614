"""The progress of a run, in a few figures whose size does not grow with the rounds, folded from its ledger as it grows.

`RunView` keeps everything for a report; this keeps only what an operator needs during the run.
"""

from __future__ import annotations

import statistics
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from plait.rounds import events
from plait.rounds.card import Card, cards_after
from plait.rounds.ledger import Follower

_TIMED = 64
"""Number of recent rounds and evaluations for estimating the remaining time, of recent updates for their staleness."""

_EVALUATING, _FINISHED = "evaluating", "finished"


@dataclass(frozen=True)
class RunProgress:
    """The progress of a run.

    Attributes:
        state: its current activity, in a word or two.
        peer: what the server exchanges messages with: a client, or in a tree a region.
        wanted: how many of them the run waits for, if it waits for some.
        round: the current round, or the last one.
        cohort: the clients of this round.
        lost: the clients that dropped out of this round, and the ledger's reason; of a masked sum with the stage.
        deadline_s: seconds until the round closes without the clients that have not answered; None for no deadline.
        rounds: planned, as the ledger says unless it is given.
        eval_every: rounds from one evaluation to the next.
        done: number of finished rounds.
        round_s: times of the most recent ones.
        evaluation_s: of the most recent evaluations that the run waited for.
        evaluating_since: when the one that it waits for began, in seconds since 1970; None for none.
        evaluates_beside: whether training goes on beside evaluations, but for the last.
        staleness: of the most recent updates of an asynchronous run.
        unfit: clients that cannot take part: a code, and the client's own message.
        base_loss: held-out loss before round 1; None until known.
        cards: of features (see `plait.rounds.card`).
        loss: the newest held-out loss and the round before it; None until there is one.
    """

    run: str = ""
    state: str = "starting"
    peer: str = "client"
    wanted: int = 0
    round: int = 0
    rounds: int = 0
    cohort: tuple[str, ...] = ()
    lost: Mapping[str, str] = field(default_factory=dict[str, str])
    deadline_s: float | None = None
    done: int = 0
    eval_every: int = 1
    round_s: tuple[float, ...] = ()
    evaluation_s: tuple[float, ...] = ()
    evaluating_since: float | None = None
    evaluates_beside: bool = False
    staleness: tuple[int, ...] = ()
    unfit: Mapping[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    cards: Mapping[str, Card] = field(default_factory=dict[str, Card])
    base_loss: float | None = None
    loss: tuple[int, float] | None = None

    @property
    def eta_s(self) -> float | None:
        """Estimated seconds for the remaining rounds and evaluations; None before the first round."""
        if not self.round_s:
            return None
        if self.state == _FINISHED:  # perhaps before its last round
            return 0.0
        evaluation_s = statistics.median(self.evaluation_s) if self.evaluation_s else 0.0
        rounds_s = statistics.median(self.round_s) * max(self.rounds - self.done, 0)
        return rounds_s + evaluation_s * self._evaluations_to_go

    @property
    def _evaluations_to_go(self) -> int:
        """That the run waits for: by its cadence, after the last round, and the one in progress."""
        is_over = self.done >= self.rounds
        if self.evaluates_beside:
            return int(not is_over or self.state == _EVALUATING)
        is_due = is_over or self.done % self.eval_every == 0
        later = -(-self.rounds // self.eval_every) - self.done // self.eval_every
        return (0 if is_over else later) + (is_due and self.state == _EVALUATING)

    @property
    def waiting(self) -> str:
        """The state of a run that waits for clients, or for regions."""
        return f"waiting for {self.peer}s"

    @property
    def mean_staleness(self) -> float | None:
        """Of the most recent updates; None in a synchronous run."""
        return statistics.fmean(self.staleness) if self.staleness else None

    def after(self, event: events.Event) -> RunProgress:
        """The progress after one more event."""
        cards = cards_after(self.cards, event)
        return (self if cards is self.cards else replace(self, cards=cards))._after(event)

    def _after(self, event: events.Event) -> RunProgress:
        match event:
            case events.Started():
                rounds, every = (
                    self.rounds or _whole(event.config.get("rounds")),
                    _whole(event.config.get("eval-every")),
                )
                here = replace(self, peer=event.peer, rounds=rounds, eval_every=max(1, every))
                return replace(here, state=here.waiting)
            case events.Resumed():
                return replace(self, state=self.waiting, unfit={}, evaluating_since=None)
            case events.Evaluated():
                return self._evaluated(event)
            case events.RunFinished():
                return replace(self, state=_FINISHED)
            case events.Interrupted():
                return replace(self, state="interrupted", evaluating_since=None)
            case events.RoundStarted():
                return replace(
                    self, state="training", round=event.round, cohort=event.cohort, lost={}, evaluating_since=None
                )
            case events.RoundMissed():
                return replace(self, state="below the quorum, retrying")
            case events.RoundFinished():
                seconds = (*self.round_s, event.wall_s or 0.0)[-_TIMED:]
                return replace(
                    self, state=_EVALUATING, done=self.done + 1, round_s=seconds, cohort=(), evaluating_since=event.time
                )
            case _:
                return self._with_clients(event)

    def _with_clients(self, event: events.Event) -> RunProgress:
        """The progress after an event of clients: who takes part, and what comes of their updates."""
        match event:
            case events.ClientsGathered():
                state = "between rounds" if self.round else "evaluating the base"
                return replace(self, state=state, evaluating_since=None if self.round else event.time)
            case events.ClientsDescribed(clients=described):
                here = {client.client for client in described}
                unfit = {name: why for name, why in self.unfit.items() if name not in here}
                return replace(self, unfit=unfit, evaluating_since=self.evaluating_since if self.round else event.time)
            case events.ClientTurnedAway():
                return replace(self, unfit={**self.unfit, event.name: (event.reason, event.detail)})
            case events.WaitingForClients():
                return replace(self, state=self.waiting, wanted=event.wanted)
            case events.UpdateRefused():
                return replace(self, lost={**self.lost, event.client: event.why})
            case events.UpdateReceived():
                stale = self.staleness if event.staleness is None else (*self.staleness, event.staleness)[-_TIMED:]
                lost = {name: why for name, why in self.lost.items() if name != event.client}
                return replace(self, lost=lost, staleness=stale)
            case events.ClientReplaced():
                return replace(self, cohort=(*self.cohort, event.by))
            case _:
                return replace(self, state=event.state) if event.state else self

    def _evaluated(self, event: events.Evaluated) -> RunProgress:
        base = event.loss if event.round == 0 else self.base_loss
        # In an asynchronous run training goes on beside an evaluation.
        beside, took = self.state == "training", self.evaluation_s
        if self.evaluating_since is not None:
            took = (*took, max(0.0, event.time - self.evaluating_since))[-_TIMED:]
        return replace(
            self,
            state=self.state if beside else "between rounds",
            base_loss=base,
            loss=(event.round, event.loss),
            evaluation_s=took,
            evaluating_since=None,
            evaluates_beside=beside or self.evaluates_beside,
        )


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


class LiveProgress:
    """Returns the newest `RunProgress` when called; each call reads only what was appended since the last one.

    Args:
        ledger: of the run; need not exist yet.
        progress: before the first event.
    """

    def __init__(self, ledger: Path, progress: RunProgress | None = None) -> None:
        self._ledger = Follower(ledger)
        self._progress = progress or RunProgress()
        self._lock = threading.Lock()

    def __call__(self) -> RunProgress:
        """The current progress."""
        with self._lock:
            for event in self._ledger.new_events():
                self._progress = self._progress.after(event)
            return self._progress

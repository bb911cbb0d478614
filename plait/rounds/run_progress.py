"""The progress of a run: a few figures for an operator, which do not change as the run goes on."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from plait.rounds.card import Card
from plait.rounds.ledger import Follower
from plait.rounds.run_now import RunNow


@dataclass(frozen=True)
class RunProgress:
    """The progress of a run; see `RunNow` for what is not said here.

    Attributes:
        rounds: planned, as the ledger says unless it is given.
        lost: the clients that dropped out of this round, and the ledger's reason.
        deadline_s: seconds until the round closes without the clients that have not answered; None for no deadline.
        unfit: clients that cannot take part: a code, and the client's own message.
        loss: the newest held-out loss and the round before it; None until there is one.
    """

    run: str = ""
    state: str = "starting"
    wanted: int = 0
    round: int = 0
    rounds: int = 0
    cohort: tuple[str, ...] = ()
    lost: Mapping[str, str] = field(default_factory=dict[str, str])
    deadline_s: float | None = None
    done: int = 0
    round_s: float = 0.0
    eta_s: float | None = None
    mean_staleness: float | None = None
    unfit: Mapping[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    cards: Mapping[str, Card] = field(default_factory=dict[str, Card])
    loss: tuple[int, float] | None = None

    def of(self, now: RunNow) -> RunProgress:
        """The same run where it stands now."""
        newest = now.newest_evaluation
        return replace(
            self,
            state=now.state,
            wanted=now.wanted,
            round=now.round,
            rounds=self.rounds or now.planned_rounds,
            cohort=tuple(now.cohort) if now.in_round else (),
            lost=dict(now.lost),
            done=now.done,
            round_s=now.round_s,
            eta_s=now.eta_s,
            mean_staleness=now.mean_staleness,
            unfit={name: (event.reason, event.detail) for name, event in now.unfit.items()},
            cards=now.cards,
            loss=newest and (newest.round, newest.loss),
        )


class LiveProgress:
    """Returns the newest `RunProgress` when called; each call reads only what was appended since the last one.

    Args:
        ledger: of the run; need not exist yet.
    """

    def __init__(self, ledger: Path, progress: RunProgress | None = None) -> None:
        self._ledger = Follower(ledger)
        self._now = RunNow()
        self._progress = progress or RunProgress()
        self._lock = threading.Lock()

    def __call__(self) -> RunProgress:
        """The current progress."""
        with self._lock:
            for event in self._ledger.new_events():
                self._now.take(event)
            return self._progress.of(self._now)

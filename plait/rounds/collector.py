"""How the updates of a run's rounds are gathered: the seam between the coordinator and its ways to do so.

The core's way waits for a cohort (`cohort.py`). Buffers and masked sums are others. All of them share the `ServerSide`
of a run: its tasks, its roster, its spool, and what ends a round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

from plait.rounds.aggregator import Aggregator
from plait.rounds.answer_log import AnswerLog
from plait.rounds.channel import Channel
from plait.rounds.checkpoint import save_checkpoint
from plait.rounds.costs import Costs
from plait.rounds.events import Evaluated
from plait.rounds.intake import Intake
from plait.rounds.ledger import Ledger
from plait.rounds.recorded import Recorded
from plait.rounds.roster import Roster
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_plan import RunPlan
from plait.rounds.run_state import RunState
from plait.rounds.spool import Spool, Stored
from plait.rounds.stop import StopRequest
from plait.rounds.tasks import Tasks
from plait.rounds.watch import Standing


@dataclass(eq=False, kw_only=True)
class ServerSide:
    """The server's side of a run in progress: what every way to gather updates shares.

    Attributes:
        recorded: by an earlier part of the run.
        conclude: finishes a round once its checkpoint is complete.
        evaluated: records an evaluation that nothing else follows from.
        standing: of the run's evaluations, if steps are taken back.
        least: clients without which no round begins.
    """

    channel: Channel
    directory: RunDirectory
    ledger: Ledger
    plan: RunPlan
    log: AnswerLog
    spool: Spool
    aggregator: Aggregator
    intake: Intake
    tasks: Tasks
    costs: Costs
    stop: StopRequest
    roster: Roster
    recorded: Recorded
    conclude: Callable[[RunState], None]
    evaluated: Callable[[Evaluated], None]
    standing: Callable[[], Standing | None]
    least: int

    @property
    def waits(self) -> bool:
        """Whether clients that are missing may yet come."""
        return self.channel.open_ended

    @property
    def virtual_s(self) -> float | None:
        """The virtual clock; None without one."""
        clock = self.channel.clock
        return clock.now() if clock.is_virtual else None

    def gather(self, *, begun: bool = True) -> None:
        """Wait for the first clients; later for a while, and then continue with the quorum."""
        enough = self.least if begun or not self.waits else None
        self.roster.gather(self.plan.clients, enough=enough)

    def close(self, state: RunState, stored: Mapping[str, Stored], *, wanted: int, started: float) -> RunState:
        """Fold the updates of the next round; the state after it is on disk, and published."""
        state, finished = self.aggregator.step(state, state.round + 1, stored, standing=self.standing())
        told: dict[str, object] = {
            "refused": max(0, wanted - finished.received),
            "wall_s": round(time.perf_counter() - started, 3),
            "virtual_s": self.virtual_s,
        }
        return self.keep(replace(state, finished=finished.model_copy(update=told)))

    def keep(self, state: RunState) -> RunState:
        """The state after a round, once it is on disk, and published."""
        save_checkpoint(self.directory.checkpoints, state)
        self.conclude(state)
        return state


class Collector(AbstractContextManager["Collector"], Protocol):
    """Gathers the updates of a run; leaving it withdraws what is unanswered."""

    def next(self, state: RunState) -> RunState:
        """The state after the next round; it is on disk.

        Raises:
            CannotPayError: the run ends with the adapter that it has.
            PeerError: too few updates are usable.
        """
        ...

    def evaluate(self, state: RunState) -> tuple[RunState, Evaluated | None]:
        """Evaluate the adapter of a state.

        Returns:
            (the state, with what clients are known to hold; the event, or None where nothing can be said yet).

        Raises:
            PeerError: too few clients could evaluate it, and no others can come.
        """
        ...


Collecting: TypeAlias = Callable[[ServerSide], Collector]
"""Makes the collector of a run."""

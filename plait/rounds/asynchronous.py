"""The round loop that waits for nobody: clients train whenever they are free, and a full buffer is a round.

Stands beside the coordinator's loop over a cohort and shares everything else with it: answers, spool, fold,
checkpoint. At most `cohort_size` clients are at work at once. Each begins with the newest adapter, trains from none
twice, and has at most one update in a buffer: whoever is in the buffer waits for the fold, and then begins with what it
has moved. A client that began too long ago for its update to count is told to stop.

The ledger has every accepted update in the order of its arrival, with the round that it is folded in (see buffer.py).
From that and the spool every adapter follows, whoever was killed. By a virtual clock a round that was interrupted is
run again from its start instead.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from plait.errors import PeerError
from plait.rounds import events
from plait.rounds.aggregator import Aggregator
from plait.rounds.broadcasts import Broadcasts
from plait.rounds.buffer import Arrival, Buffer
from plait.rounds.checkpoint import save_checkpoint
from plait.rounds.dispatch import Aim, Answer, Dispatch, doubt
from plait.rounds.intake import Intake
from plait.rounds.recorded import Recorded
from plait.rounds.roster import Roster
from plait.rounds.run_plan import RunPlan
from plait.rounds.run_state import AtWork, Held, RunState, asking_order, note_held
from plait.rounds.spool import Stored
from plait.rounds.tracks import Ranks
from plait.rounds.validate import Expected, Reason
from plait.wire.messages import UpdateReply

_LOOK_S = 1.0  # interval of checks for clients that came or went


@dataclass(frozen=True)
class _Working:
    """A client that trains.

    Attributes:
        version: rounds that the adapter has behind it with which it began.
        expected: what its update must say.
        track: its adapter's.
    """

    version: int
    expected: Expected
    track: int


@dataclass(eq=False, kw_only=True)
class AsynchronousRounds:
    """The rounds of one asynchronous run.

    Attributes:
        dispatch: of training tasks; open for the whole run.
        gather: waits for missing clients.
        beside: looks after what goes on beside training.
        conclude: finishes a round once its checkpoint is complete.
    """

    plan: RunPlan
    buffer: Buffer
    ranks: Ranks
    base_fingerprint: bytes
    aggregator: Aggregator
    intake: Intake
    roster: Roster
    dispatch: Dispatch
    recorded: Recorded
    gather: Callable[[], None]
    beside: Callable[[], None]
    conclude: Callable[[RunState], None]

    def __post_init__(self) -> None:
        self._channel = self.dispatch.channel
        self._ledger = self.dispatch.ledger
        self._working: dict[str, _Working] = {}
        self._asked: set[str] = set()
        self._left_over: dict[str, AtWork] | None = None
        self._looked_at = -math.inf

    def next(self, state: RunState) -> RunState:
        """The state after the next full buffer; it is on disk.

        Raises:
            PeerError: nobody is left who could give an update, and the buffer has fewer than the quorum.
        """
        started, number = time.perf_counter(), state.round + 1
        self._asked.clear()
        state, stored = self._go_on(state)
        state = self._ask(state, stored)
        self._ledger.append(events.RoundStarted(round=number, cohort=tuple(sorted(self._working))))
        attempt = 1
        while (accepted := self._accepted(state, stored)) < self.buffer.size:
            if not self._working:
                if accepted >= self.plan.quorum:
                    break
                self._miss(number, attempt, accepted)
                attempt += 1
            elif answer := self.dispatch.next_answer(self._until()) or self.dispatch.give_up():
                state = self._take(state, stored, answer)
            self.beside()
            state = self._ask(state, stored)
        return self._fold(state, stored, started)

    def _accepted(self, state: RunState, stored: dict[str, Stored]) -> int:
        return len(self.intake.spool.check_norms(state, stored).accepted)

    def _until(self) -> float | None:
        """When to look for clients that came or went, on the channel's clock."""
        return self._channel.clock.now() + _LOOK_S if self._channel.open_ended else None

    def _go_on(self, state: RunState) -> tuple[RunState, dict[str, Stored]]:
        """What the part of the run before has left: its buffer, and who was at work."""
        if self._left_over is not None:
            return state, {}
        self._left_over = dict(state.at_work)
        stored: dict[str, Stored] = {}
        if not self._channel.clock.is_virtual:
            for number, client in self.recorded.folded_in.get(state.round + 1, ()):
                if number - 1 in {state.round, *state.versions}:
                    self._recover(state, number - 1, client, stored)
        # In the order of their rounds, so that a driver that groups by round keeps the answers that it has.
        for client, _ in sorted(state.at_work.items(), key=lambda item: (item[1].version, item[0])):
            if client in self.roster.nodes and client not in stored:
                state = self._begin(state, client, stored)
        return state, stored

    def _recover(self, state: RunState, version: int, client: str, stored: dict[str, Stored]) -> bool:
        """Put an update that an earlier part of the run has stored into the buffer, if there is one."""
        is_recorded = (version + 1, client) in self.recorded.received
        arrival = self._arrival(state, version, client)
        if arrival.staleness > self.buffer.max_staleness:
            return False
        began = state.at(version)
        found = self.intake.recover(began, version + 1, client, is_recorded=is_recorded, arrival=arrival)
        if found:
            stored[client] = found
        return bool(found)

    def _arrival(self, state: RunState, version: int, client: str) -> Arrival:
        staleness = state.round - version
        return Arrival(version + 1, state.round + 1, self.buffer.weight(staleness, client, state.recent))

    def _release_stale(self, state: RunState) -> RunState:
        """Tell clients to stop whose updates would not count any more."""
        for client, working in sorted(self._working.items()):
            if (staleness := state.round - working.version) > self.buffer.max_staleness:
                del self._working[client]
                self.dispatch.withdraw(client, Reason.STALE.value)
                state = note_held(state, {client: Held()})
                detail = f"staleness of the update would be {staleness}, expected at most {self.buffer.max_staleness}"
                self.intake.log.misfit(working.version + 1, client, Reason.STALE, detail)
        return state

    def _ask(self, state: RunState, stored: dict[str, Stored]) -> RunState:
        """Let clients train that are free, as long as there is room."""
        now = self._channel.clock.now()
        if self._channel.open_ended and now - self._looked_at >= _LOOK_S:
            self._looked_at = now
            self.roster.gather(0)
        room = self.plan.cohort_size - len(self._working)
        busy, owed = {*self._working, *stored, *self._asked}, self.dispatch.nodes
        free = {node: client for client, node in self.roster.nodes.items() if client not in busy and node not in owed}
        if room <= 0 or not free or self._accepted(state, stored) >= self.buffer.size:
            return state
        here = self._channel.clock.available([*free], at_least=0 if self._working else 1)
        order = asking_order(
            [free[node] for node in here],
            self.plan.cohort_size,
            known=len(self.roster.nodes),
            seed=self.plan.seed,
            round_number=state.round + 1,
        )
        for client in order[:room]:
            state = self._begin(state, client, stored)
        return state

    def _begin(self, state: RunState, client: str, stored: dict[str, Stored]) -> RunState:
        """Let a client train from the newest adapter, or go on from where it was when the server stopped."""
        left_over = (self._left_over or {}).pop(client, None)
        version = left_over.version if left_over and left_over.version in state.versions else state.round
        number = version + 1
        may_be_stored = self.recorded.begun and (number, client) not in self.recorded.received
        if may_be_stored and not self._channel.clock.is_virtual and self._recover(state, version, client, stored):
            return state
        began = state.at(version)
        track = self.roster.tracks[client]
        self._working[client] = _Working(version, self.intake.expected(began, number, client, self.roster), track)
        if self.dispatch.aim.number != number or self.dispatch.aim.broadcasts.state.round != version:
            self.dispatch.aim = Aim(number, Broadcasts(began, self.ranks, self.base_fingerprint))
        self.dispatch.held = state.held
        # By a virtual clock its device goes on where it was.
        span = left_over.span if left_over and left_over.version == version else None
        expected_s = self.intake.log.paces.expected_s(client)
        self.dispatch.ask(client, expected_s=expected_s, asked_at=span and span.began_s)
        if version != state.round:
            # It was asked before the server stopped, and may have been sent a newer adapter to evaluate since.
            return state
        self._asked.add(client)
        # An evaluation may be asked for before the answer is there.
        return note_held(state, {client: began.held_on(track)})

    def _take(self, state: RunState, stored: dict[str, Stored], answer: Answer) -> RunState:
        """Put an update into the buffer if it is usable."""
        client = answer.client
        working = self._working.pop(client)
        if isinstance(answer.reply, UpdateReply):
            began = state.at(working.version)
            taken = self.intake.receive(
                began,
                working.expected,
                working.track,
                answer.reply.update,
                answer,
                arrival=self._arrival(state, working.version, client),
            )
            if taken:
                stored[client] = taken
                return state
        else:
            self.intake.log.failure(working.version + 1, answer)
        if client in self.roster.nodes:
            doubt(self.roster, answer)
        return state

    def _miss(self, number: int, attempt: int, received: int) -> None:
        """Nobody is at work, and nobody is left to ask: ask everybody once more, as often as a round is tried."""
        self._ledger.append(events.RoundMissed(round=number, attempt=attempt, received=received))
        if attempt >= self.plan.attempts:
            raise PeerError(
                f"round {number} got {received} usable updates, expected at least {self.plan.quorum}, and nobody is "
                "left who could give one"
            )
        if self._channel.open_ended:
            self.gather()
        self._asked.clear()

    def _fold(self, state: RunState, stored: dict[str, Stored], started: float) -> RunState:
        number = state.round + 1
        if number == self.plan.rounds:
            # Nobody's update counts any more.
            self.dispatch.close()
            state = note_held(state, dict.fromkeys(self._working, Held()))
            self._working.clear()
        state, finished = self.aggregator.step(state, number, stored)
        state = self._release_stale(state)
        self.intake.log.note_spans(number, self.roster)
        in_progress, clock = self._channel.clock.in_progress(), self._channel.clock
        at_work = {
            client: AtWork(working.version, in_progress.get(self.roster.nodes.get(client, -1)))
            for client, working in self._working.items()
        }
        used = {working.version for working in self._working.values()}
        told = {
            "refused": max(0, self.buffer.size - finished.received),
            "wall_s": round(time.perf_counter() - started, 3),
            "virtual_s": clock.now() if clock.is_virtual else None,
        }
        state = replace(
            state,
            versions={version: shadows for version, shadows in state.versions.items() if version in used},
            at_work=at_work,
            finished=finished.model_copy(update=told),
        )
        save_checkpoint(self.intake.directory.checkpoints, state, self.ranks)
        self.conclude(state)
        return state

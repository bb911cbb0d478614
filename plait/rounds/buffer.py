"""Asynchronous rounds: clients train whenever they are free, and a full buffer of updates is folded at once.

FedBuff (Nguyen et al., "Federated Learning with Buffered Asynchronous Aggregation", arXiv 2106.06639). A *round* is one
fold. An update's *staleness* is the number of folds between the adapter that it was trained from and the one that it is
folded into; it counts 1 / sqrt(1 + s), where s is the staleness in rounds of all clients at work.

A client has at most one update in a buffer, trains from no adapter twice, and counts less once it has come more often
than clients do on average. These weights are relative to a whole update and not to the others in a buffer: a fold moves
the mean of its updates by `STEP` times the sum of their weights over the clients at work. A buffer that moved a whole
mean would go further, and clients whose text has little to gain would pay for it (simulations/LOG.md).

The ledger has every accepted update in the order of its arrival, with the round that it is folded in. From that and the
spool every adapter follows, whichever process was killed. By a virtual clock a round that was interrupted is run again.
"""

import math
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast

import numpy as np

from plait.adapters import AdapterState
from plait.aggregation import RoundContext
from plait.config import RunConfig
from plait.errors import ConfigError, PeerError
from plait.ledger import events
from plait.ledger.events import Reason, UpdateReceived
from plait.rounds.channel import IN_PROGRESS, Purpose
from plait.rounds.cohort import Collector, Evaluating, ServerContext
from plait.rounds.coordinator import Way
from plait.rounds.dispatch import Dispatch, RoundAnswer, mark_failed
from plait.rounds.fold import Fold, Folded
from plait.rounds.paces import ClientSpeeds
from plait.rounds.run_plan import RunPlan
from plait.rounds.run_state import RunState, note_held
from plait.rounds.spool import Arrival, Spool, Stored
from plait.rounds.validate import Expected
from plait.settings.pace import buffer_size
from plait.wire.messages import UpdateReply

_RECENT = "recent"
SLOWEST = 10
"""How many times slower than the mean a client may be by default before its updates are too old."""

STEP = 1.5
"""How far an update moves the adapter, of what it would in a synchronous round; most weigh less than 1."""


@dataclass(frozen=True)
class Buffer:
    """The settings of asynchronous rounds; at most `at_work` clients train at once."""

    size: int
    max_staleness: int
    at_work: int

    def weight(self, staleness: int, client: str, recent: Sequence[Sequence[str]]) -> float:
        """How much an update counts, at most 1."""
        before = Counter(each for folded in recent for each in folded)
        usual = before.total() / len(before) if before else 0.0
        return min(1.0, (1 + usual) / (1 + before[client])) / math.sqrt(1 + staleness * self.size / self.at_work)

    def moved(self, weights: Collection[float]) -> float:
        """How much of the mean of a buffer's updates a fold moves, at most 1."""
        return min(STEP * math.fsum(weights) / self.at_work, 1.0)

    def kept(self, state: RunState, folded: Sequence[str]) -> RunState:
        """The state before a fold of these clients' updates, with what later folds need of it."""
        versions = {**state.versions, state.round: tuple(track.shadow for track in state.tracks)}
        oldest = state.round + 1 - self.max_staleness
        recent = [*recent_folds(state), list(folded)][-self.max_staleness :]
        remembered = {**state.remembered, _RECENT: recent}
        return replace(state, versions={n: each for n, each in versions.items() if n >= oldest}, remembered=remembered)


def recent_folds(state: RunState) -> list[list[str]]:
    """The clients of each of the last folds, the newest last."""
    return cast("list[list[str]]", state.remembered.get(_RECENT, []))


def settled(config: RunConfig) -> dict[str, object]:
    """The settings that are open: how many updates a buffer has."""
    return {"rounds_mode": f"async:{_size(config)}"}


def buffer_of(config: RunConfig) -> Buffer:
    """The buffer of a run."""
    size = _size(config)
    return Buffer(size, SLOWEST * math.ceil(config.cohort_size / size), config.cohort_size)


def planned(plan: RunPlan, config: RunConfig) -> RunPlan:
    """The plan of a run whose rounds are buffers."""
    size = _size(config)
    return replace(plan, folds=size, quorum=math.ceil(config.quorum * size), speeds=ClientSpeeds.of)


def arrival(buffer: Buffer, state: RunState, event: UpdateReceived) -> Arrival:
    """How the next recorded update to fold came; `PeerError` if that does not follow from the updates before it."""
    fold, what = state.round + 1, f"update of {event.client!r} in round {event.round}"
    staleness = fold - event.round
    if event.fold != fold or not 0 <= staleness <= buffer.max_staleness:
        raise PeerError(
            f"{what} is folded in round {event.fold}, expected {fold}, with a staleness of at most "
            f"{buffer.max_staleness}"
        )
    weight = buffer.weight(staleness, event.client, recent_folds(state))
    if (event.staleness, event.weight) != (staleness, weight):
        raise PeerError(
            f"{what} has staleness {event.staleness} and weight {event.weight}, expected {staleness} and {weight}"
        )
    return Arrival(event.round, fold, weight)


def check(settings: RunConfig, *, simulates: bool) -> None:
    """Refuse simulated clients none of which is faster than another."""
    if simulates and not settings.fleet:
        raise ConfigError(
            f"rounds-mode is '{settings.rounds_mode}' but no fleet is given: give --fleet, a TOML file that states "
            "how fast each simulated client is"
        )


def _size(config: RunConfig) -> int:
    return buffer_size(config.rounds_mode, config.cohort_size)


_LOOK_S = 1.0  # interval of checks for clients that came or went
_AT_WORK = "at_work"


@dataclass(frozen=True)
class _Working:
    """A client that trains from the adapter of round `version`."""

    version: int
    expected: Expected
    track: int


@dataclass(eq=False)
class BufferCollector(Collector):
    """Gathers the updates of one asynchronous run, in the buffer that its plan describes.

    Evaluations run alongside training: each client evaluates before it trains again, and answers that arrive before the
    next evaluation count.
    """

    server: ServerContext
    buffer: Buffer
    _training: Dispatch = field(init=False)  # open from the first round to the end of the run

    def __post_init__(self) -> None:
        self._channel, self._roster = self.server.channel, self.server.roster
        self._beside: Evaluating | None = None
        self._working: dict[str, _Working] = {}
        self._asked: set[str] = set()
        self._left_over: dict[str, int] | None = None
        self._looked_at = -math.inf

    def __exit__(self, *error: object) -> None:
        if self._beside is not None:
            self._beside.__exit__(*error)
        if self._left_over is not None:
            self._training.__exit__(*error)

    def evaluate(self, state: RunState) -> tuple[RunState, events.Evaluated | None]:
        """Ask clients for their losses; between the first and the last round they are not waited for."""
        server = self.server
        if server.waits:
            self._conclude_beside()
            if 0 < state.round < server.plan.rounds and not server.stop.ending:
                return self._begin_beside(state), None
        return super().evaluate(state)

    def _begin_beside(self, state: RunState) -> RunState:
        roster, patience = self.server.roster, replace(self.server.plan.patience, slow_factor=math.inf)
        self._beside = Evaluating(self.server, state, patience)
        self._beside.__enter__()
        return note_held(
            state, {client: state.held_on(roster.clients[client].track) for client in self._beside.clients}
        )

    def _look_beside(self) -> None:
        """Take the answers that are there to an evaluation beside training."""
        if self._beside is None:
            return
        dispatch = self._beside.dispatch
        while dispatch.waiting and (answer := dispatch.next_answer(self._channel.clock.now()) or dispatch.give_up()):
            self._beside.take(answer)
        if not dispatch.waiting:
            self._conclude_beside()

    def _conclude_beside(self) -> None:
        """Record an evaluation beside training; clients that have not answered by now are left out."""
        evaluating, self._beside = self._beside, None
        if evaluating is None:
            return
        evaluating.dispatch.close()
        if evaluated := evaluating.result(virtual_s=None):
            self.server.evaluated(evaluated, evaluating.state)

    def next(self, state: RunState) -> RunState:
        """The state after the next full buffer; it is on disk."""
        started, number = time.perf_counter(), state.round + 1
        self._asked.clear()
        state, stored = self._go_on(state)
        state = self._ask(state, stored)
        self.server.ledger.append(events.RoundStarted(round=number, cohort=tuple(sorted(self._working))))
        attempt, enough, clock = 1, self.server.enough(self.buffer.size), self._channel.clock
        while (accepted := self._accepted(state, stored)) < self.buffer.size:
            if not self._working:
                if accepted >= (enough if attempt < self.server.plan.attempts else self.server.plan.quorum):
                    break
                self._miss(number, attempt, accepted)
                attempt += 1
            else:
                until = clock.now() + _LOOK_S if self._channel.open_ended else None
                if answer := self._training.next_answer(until) or self._training.give_up():
                    state = self._take(state, stored, answer)
            self._look_beside()
            state = self._ask(state, stored)
        return self._fold(state, stored, started)

    def _accepted(self, state: RunState, stored: dict[str, Stored]) -> int:
        return len(self.server.spool.check_norms(state, stored).accepted)

    def _go_on(self, state: RunState) -> tuple[RunState, dict[str, Stored]]:
        """What the part of the run before has left: its buffer, and who was at work."""
        if self._left_over is not None:
            return state, {}
        # Only a buffer that lacks a slow client waits for it, twice as long as others need to make it too old.
        slow_factor = 2 * self.buffer.max_staleness * self.buffer.size / self.server.plan.cohort_size
        patience = replace(self.server.plan.patience, slow_factor=slow_factor)
        self._training = self.server.dispatch(state, Purpose.TRAIN, patience=patience).__enter__()
        # Who was training when the last round ended, and from which version.
        at_work = cast("dict[str, int]", state.remembered.get(_AT_WORK, {}))
        self._left_over = dict(at_work)
        stored: dict[str, Stored] = {}
        if not self._channel.clock.is_virtual:
            for update in self.server.recorded.updates_in(state.round + 1):
                if update.round - 1 in {state.round, *state.versions}:
                    self._recover(state, update.round - 1, update.client, stored)
        # In the order of their rounds, so that a driver that groups by round keeps the answers that it has.
        for client, _ in sorted(at_work.items(), key=lambda item: (item[1], item[0])):
            if client in self._roster.nodes and client not in stored:
                state = self._begin(state, client, stored)
        return state, stored

    def _recover(self, state: RunState, version: int, client: str, stored: dict[str, Stored]) -> bool:
        """Put an update that an earlier part of the run has stored into the buffer, if there is one."""
        is_recorded = (version + 1, client) in self.server.recorded.updates
        arrival = self._arrival(state, version, client)
        if arrival.staleness > self.buffer.max_staleness:
            return False
        began = state.at(version)
        found = self.server.intake.recover(began, version + 1, client, is_recorded=is_recorded, arrival=arrival)
        if found:
            stored[client] = found
        return bool(found)

    def _arrival(self, state: RunState, version: int, client: str) -> Arrival:
        staleness = state.round - version
        return Arrival(version + 1, state.round + 1, self.buffer.weight(staleness, client, recent_folds(state)))

    def _release_stale(self, state: RunState) -> RunState:
        for client, working in sorted(self._working.items()):
            if (staleness := state.round - working.version) > self.buffer.max_staleness:
                del self._working[client]
                self._training.withdraw(client, Reason.STALE.value)
                state = note_held(state, {client: b""})
                detail = f"update would be {staleness} rounds stale; at most {self.buffer.max_staleness} are accepted"
                self.server.log.misfit(working.version + 1, client, Reason.STALE, detail)
        return state

    def _ask(self, state: RunState, stored: dict[str, Stored]) -> RunState:
        """Let clients train that are free, as long as there is room."""
        now = self._channel.clock.now()
        if self._channel.open_ended and now - self._looked_at >= _LOOK_S:
            self._looked_at = now
            self._roster.gather(0)
        plan = self.server.plan
        room = plan.cohort_size - len(self._working)
        busy, owed = {*self._working, *stored, *self._asked}, self._training.nodes
        free = {node: client for client, node in self._roster.nodes.items() if client not in busy and node not in owed}
        if room <= 0 or not free or self._accepted(state, stored) >= self.buffer.size:
            return state
        here = self._channel.clock.available([*free], at_least=0 if self._working else 1)
        order = sorted(free[node] for node in here)
        if len(self._roster.nodes) > plan.cohort_size:
            # Not all can be at work: chance decides.
            np.random.default_rng([plan.seed, state.round + 1, 2]).shuffle(order)
        for client in order[:room]:
            state = self._begin(state, client, stored)
        return state

    def _begin(self, state: RunState, client: str, stored: dict[str, Stored]) -> RunState:
        """Let a client train from the newest adapter, or continue from where it was when the server stopped."""
        left_over = (self._left_over or {}).pop(client, None)
        version = state.round if left_over is None or left_over not in state.versions else left_over
        number = version + 1
        may_be_stored = self.server.recorded.begun and (number, client) not in self.server.recorded.updates
        if may_be_stored and not self._channel.clock.is_virtual and self._recover(state, version, client, stored):
            return state
        began = state.at(version)
        track = self._roster.clients[client].track
        self._working[client] = _Working(
            version, self.server.intake.expected(began, number, client, self._roster), track
        )
        if self._training.broadcasts.state.round != version:
            self._training.broadcasts = self.server.broadcasts(began)
        self._training.held = state.held
        # By a virtual clock its device goes on where it was.
        tasks = cast("dict[str, dict[str, float]]", state.remembered.get(IN_PROGRESS, {}))
        task = tasks.get(client, {}) if left_over == version else {}
        self._training.ask(client, expected_s=self.server.log.expected_s(client), asked_at=task.get("began_s"))
        if version != state.round:
            # It was asked before the server stopped, and may have been sent a newer adapter to evaluate since.
            return state
        self._asked.add(client)
        # An evaluation may be asked for before the answer is there.
        return note_held(state, {client: began.held_on(track)})

    def _take(self, state: RunState, stored: dict[str, Stored], answer: RoundAnswer) -> RunState:
        client = answer.client
        working = self._working.pop(client)
        if isinstance(answer.reply, UpdateReply):
            intake, update = self.server.intake, answer.reply.update
            arrival = self._arrival(state, working.version, client)
            checked = intake.open(state.at(working.version), working.expected, working.track, update, arrival=arrival)
            if taken := intake.commit_update(working.expected, update, answer, checked):
                stored[client] = taken
                return state
        else:
            self.server.log.failure(working.version + 1, answer)
        if client in self._roster.nodes:
            mark_failed(self._roster, answer)
        return state

    def _miss(self, number: int, attempt: int, received: int) -> None:
        """No client is at work or left to ask: ask all once more, as often as a round is tried."""
        self.server.ledger.append(events.RoundMissed(round=number, attempt=attempt, received=received))
        if attempt >= self.server.plan.attempts:
            raise PeerError(
                f"round {number} got {received} usable updates, expected at least {self.server.plan.quorum}, and no "
                "client is left that could give one"
            )
        if self._channel.open_ended:
            self.server.gather(enough=self.server.enough(self.buffer.size), deadline=self.server.deadline())
        self._asked.clear()

    def _fold(self, state: RunState, stored: dict[str, Stored], started: float) -> RunState:
        if state.round + 1 == self.server.plan.rounds:
            # No update counts any more.
            self._training.close()
            state = note_held(state, dict.fromkeys(self._working, b""))
            self._working.clear()
        return self.server.close(state, stored, wanted=self.buffer.size, started=started, after=self._with_work)

    def _with_work(self, state: RunState) -> RunState:
        """The state after a fold, with what clients are at work on."""
        state = self._release_stale(state)
        self.server.log.note_ended(state.round, self._roster)
        clients = {node: client for client, node in self._roster.nodes.items()}
        tasks = {clients.get(node): task for node, task in self._channel.clock.in_progress().items()}
        at_work = {client: working.version for client, working in sorted(self._working.items())}
        versions = {version: each for version, each in state.versions.items() if version in at_work.values()}
        in_progress = {client: tasks[client] for client in at_work if client in tasks}
        if beside := self._beside:
            # It is open whether what is being evaluated is published.
            versions[beside.state.round] = tuple(track.shadow for track in beside.state.tracks)
        return replace(
            state,
            versions=versions,
            remembered={**state.remembered, _AT_WORK: at_work, IN_PROGRESS: in_progress},
        )


@dataclass(frozen=True)
class BufferedFold(Fold):
    """The fold of a buffer's updates, made of that of a round's."""

    inner: Fold
    buffer: Buffer

    def fold(self, state: RunState, context: RoundContext, stored: Mapping[str, Stored]) -> Folded:
        """The rule's outcome, as far as the buffer moves it."""
        folded = self.inner.fold(state, context, stored)
        counted = [arrival.weight for client in folded.clients if (arrival := stored[client].arrival)]
        step, moved = folded.outcome.step, np.float32(self.buffer.moved(counted))
        outcome = replace(folded.outcome, step=AdapterState(step.layout, step.flat * moved))

        def keep(before: RunState) -> RunState:
            return folded.keep(self.buffer.kept(before, folded.clients))

        return replace(folded, outcome=outcome, keep=keep)


def with_buffer(way: Way, buffer: Buffer) -> Way:
    """The same run with rounds that are buffers like this one."""

    def folding(spool: Spool) -> Fold:
        return BufferedFold(way.folding(spool), buffer)

    collecting = partial(BufferCollector, buffer=buffer)
    return replace(way, collecting=collecting, folding=folding, arriving=partial(arrival, buffer))

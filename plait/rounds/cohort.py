"""Rounds that wait for their cohort: how updates and evaluations are gathered by default.

A round ends when enough updates are in, or at its deadline. Clients that fail are replaced while there is time; with
fewer updates than the quorum the round is tried again with those it has, and where clients come and go also with half
of its cohort or less, if others were lost. The result does not depend on who answered first.
"""

import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol, Self, TypeAlias

from plait.errors import PeerError
from plait.ledger import events
from plait.ledger.events import Evaluated, Reason
from plait.ledger.ledger import Ledger
from plait.ledger.run_view import RunView
from plait.ledger.watch import EvaluationHistory
from plait.rounds.broadcasts import Broadcasts
from plait.rounds.channel import Channel, NoAnswer, Patience, Purpose, StopRequest
from plait.rounds.dispatch import Dispatch, RoundAnswer, mark_failed
from plait.rounds.evaluation import ClientLoss, client_losses, mean_loss
from plait.rounds.fold import Aggregator
from plait.rounds.roster import RunRoster
from plait.rounds.run_plan import PrivacyBudget, RunPlan, TaskSettings
from plait.rounds.run_state import RunState, choose_cohort, note_held
from plait.rounds.spool import AnswerLog, Intake, SideBySide, Spool, Stored
from plait.rounds.validate import RefusedUpdateError, check_evaluation
from plait.wire.messages import EvaluateTask, Evaluation, Task, TrainTask, UpdateReply


@dataclass(eq=False, kw_only=True)
class ServerContext:
    """The server's side of a run in progress: what all collectors share."""

    channel: Channel
    ledger: Ledger
    plan: RunPlan
    settings: TaskSettings
    log: AnswerLog
    spool: Spool
    aggregator: Aggregator
    intake: Intake
    costs: PrivacyBudget
    stop: StopRequest
    roster: RunRoster
    recorded: RunView  # by earlier processes
    commit_round: Callable[[RunState], None]
    evaluated: Callable[[Evaluated, RunState], None]  # records an evaluation beside training
    standing: Callable[[], EvaluationHistory | None]  # if steps are taken back
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

    def dispatch(
        self, state: RunState, purpose: Purpose, *, attempt: bytes = b"", patience: Patience | None = None
    ) -> Dispatch:
        """Tasks of one purpose, for clients that are brought to the adapter of `state`."""

        def task(client: str, number: int, broadcast: bytes) -> Task:
            if purpose is not Purpose.TRAIN:
                return EvaluateTask(self.settings.to_evaluate(number, judging=purpose is Purpose.JUDGE), broadcast)
            steps = self.intake.steps.get((number, client), 0)
            return TrainTask(self.settings.to_train(number, client, steps=steps), broadcast)

        return Dispatch(
            roster=self.roster,
            broadcasts=self.broadcasts(state),
            held=state.held,
            purpose=purpose,
            task=task,
            patience=patience or self.plan.patience,
            attempt=attempt,
        )

    def broadcasts(self, state: RunState) -> Broadcasts:
        """Those that lead clients to the adapter of `state`."""
        return Broadcasts(state, self.spool.ranks, self.spool.base_fingerprint)

    def deadline(self) -> float | None:
        """When to stop waiting for answers to tasks that are sent now, on the channel's clock."""
        return None if self.plan.deadline_s is None else self.channel.clock.now() + self.plan.deadline_s

    def gather(self, *, begun: bool = True, enough: int = 0, deadline: float | None = None) -> None:
        """Wait for the first clients; later for a while, and then continue with the quorum.

        Args:
            enough: clients to continue with, if that is more, until the deadline, on the channel's clock.
        """
        least = self.least if begun or not self.waits else None
        self.roster.gather(self.plan.clients, enough=least, better=enough, deadline=deadline)

    def enough(self, wanted: int) -> int:
        """Updates without which a round of so many waits for clients that were lost: more than half."""
        return max(self.plan.quorum, wanted // 2 + 1) if self.waits else self.plan.quorum

    def close(
        self,
        state: RunState,
        stored: Mapping[str, Stored],
        *,
        wanted: int,
        started: float,
        after: Callable[[RunState], RunState] = lambda state: state,
    ) -> RunState:
        """Fold the updates of the next round; the state after it, changed by `after`, is on disk, and published."""
        state, finished = self.aggregator.step(state, stored, standing=self.standing())
        state = after(state)
        about: dict[str, object] = {
            "refused": max(0, wanted - finished.received),
            "wall_s": round(time.perf_counter() - started, 3),
            "virtual_s": self.virtual_s,
        }
        state = replace(state, finished=finished.model_copy(update=about))
        self.commit_round(state)
        return state


class Collector(AbstractContextManager["Collector"], Protocol):
    """Gathers the updates of a run; leaving it withdraws what is unanswered."""

    server: ServerContext

    def __exit__(self, *error: object) -> None:
        """Nothing to withdraw: each round withdraws its own tasks."""

    def next(self, state: RunState) -> RunState:
        """The state after the next round; it is on disk."""
        ...

    def evaluate(self, state: RunState) -> tuple[RunState, Evaluated | None]:
        """The state, with what clients hold now, and its evaluation; None where there are no losses yet."""
        return evaluate(self.server, state)

    def judge(self, state: RunState) -> Evaluated | None:
        """The evaluation on the clients' judge parts; None where no client has one, or answers."""
        return evaluate(self.server, state, Purpose.JUDGE)[1]


Collecting: TypeAlias = Callable[[ServerContext], Collector]
"""Makes the collector of a run."""


@dataclass(eq=False)
class Evaluating:
    """An evaluation in progress. Entering it asks the clients; leaving it withdraws what is unanswered."""

    server: ServerContext
    state: RunState
    patience: Patience | None = None
    purpose: Purpose = Purpose.EVALUATE
    _losses: dict[str, ClientLoss] = field(default_factory=dict[str, ClientLoss])
    _own: dict[str, ClientLoss] = field(default_factory=dict[str, ClientLoss])

    def __post_init__(self) -> None:
        roster = self.server.roster
        self.dispatch = self.server.dispatch(self.state, self.purpose, patience=self.patience)
        # A client that leaves meanwhile may yet answer.
        self._cards = {
            client: roster.clients[client].card for client in self.server.plan.evaluators(list(roster.nodes))
        }
        if self.purpose is Purpose.JUDGE:
            self._cards = {client: card.judging for client, card in self._cards.items() if card.judge_examples}
        self.clients = tuple(self._cards)
        self.held = {client: self.state.held_on(roster.clients[client].track) for client in self.clients}

    def __enter__(self) -> Self:
        self.dispatch.__enter__()
        for client in self.clients:
            self.dispatch.ask(client)
        return self

    def __exit__(self, *error: object) -> None:
        self.dispatch.__exit__(*error)

    def take(self, answer: RoundAnswer) -> bool:
        """Take a client's answer; whether it counts."""
        client, reply, number = answer.client, answer.reply, self.state.round
        if not isinstance(reply, Evaluation):
            self.server.log.failure(number, answer)
            if answer.given_up:
                mark_failed(self.server.roster, answer)
            return False
        try:
            check_evaluation(reply, self._cards[client], number, self.server.plan.metrics)
        except RefusedUpdateError as refused:
            uplink_bytes = answer.uplink_bytes
            self.server.log.refusal(number, client, refused.reason, str(refused), uplink_bytes=uplink_bytes)
            return False
        self.server.log.ledger.note(
            events.ReplyReceived(
                round=number, client=client, purpose=self.purpose.value, uplink_bytes=answer.uplink_bytes
            )
        )
        self._losses[client], own_loss = client_losses(reply)
        if own_loss is not None:
            self._own[client] = own_loss
        return True

    def result(self, *, virtual_s: float | None) -> events.Evaluated | None:
        """Its event; None without answers."""
        if not self._losses:
            return None
        metrics = self.server.plan.metrics
        return events.Evaluated(
            round=self.state.round,
            adapter=self.state.shadow.digest().hex(),
            **dict(mean_loss(self._losses, metrics)),
            own=mean_loss(self._own, metrics) if self._own else None,
            virtual_s=virtual_s,
        )


def evaluate(
    server: ServerContext, state: RunState, purpose: Purpose = Purpose.EVALUATE
) -> tuple[RunState, events.Evaluated | None]:
    """Ask clients for their losses, and wait for the answers."""
    if server.waits and purpose is Purpose.EVALUATE:
        server.gather()
    deadline, held = server.deadline(), dict[str, bytes]()
    with Evaluating(server, state, purpose=purpose) as evaluating:
        while answer := evaluating.dispatch.next_answer(deadline):
            if evaluating.take(answer):
                held[answer.client] = evaluating.held[answer.client]
    server.log.note_ended(state.round, server.roster)
    evaluated = evaluating.result(virtual_s=server.virtual_s)
    if evaluated is None and purpose is Purpose.EVALUATE and not server.waits:
        raise PeerError(f"no client could evaluate round {state.round}")
    return note_held(state, held), evaluated


_Settle: TypeAlias = Callable[[], "tuple[bytes, Stored | None]"]
"""Stores an update; returns what its client holds now, and what is stored."""


class Arrivals:
    """The answers to come."""

    def __init__(
        self, dispatch: Dispatch, opening: Callable[[RoundAnswer], Callable[[], _Settle] | None], *, each_bytes: int
    ) -> None:
        self._dispatch = dispatch
        self._opening = opening
        self._work = SideBySide[_Settle | None](each_bytes)
        self._answers: deque[RoundAnswer] = deque()

    def __enter__(self) -> Self:
        self._work.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._work.__exit__(*error)

    def __len__(self) -> int:
        """Answers that came and were not taken."""
        return len(self._answers)

    def next(self, deadline: float | None, *, wanted: int) -> tuple[RoundAnswer, _Settle | None] | None:
        """The next answer and what was found in its update; None once all have answered or the deadline has passed."""
        channel = self._dispatch.roster.channel
        while len(self) < wanted and not self._work.is_full:
            # In a process with its clients no answer has come before it is asked for.
            if self._answers and not channel.open_ended:
                break
            answer = self._dispatch.next_answer(channel.clock.now() if self._answers else deadline)
            if answer is None:
                break
            self._answers.append(answer)
            self._work.give(self._opening(answer) or (lambda: None))
        return (self._answers.popleft(), self._work.take()) if self._answers else None


@dataclass(eq=False)
class CohortCollector(Collector):
    """Gathers the updates of one cohort after the other."""

    server: ServerContext

    def __enter__(self) -> Self:
        number, clients = self.server.recorded.round, tuple(self.server.recorded.cohort)
        self._kept = {number: clients} if clients else dict[int, tuple[str, ...]]()
        return self

    def next(self, state: RunState) -> RunState:
        """The state after the next round."""
        server, started, number = self.server, time.perf_counter(), state.round + 1
        stored = self._recovered(state, number)
        check = server.spool.check_norms(state, stored)
        if server.aggregator.fold.is_settled(state, number, check.accepted):
            return self._close(state, stored, started)
        attempts = server.plan.attempts if server.waits or server.channel.clock.is_virtual else 1
        enough, deadline = server.enough(server.plan.cohort_size), server.deadline()
        for attempt in range(1, attempts + 1):
            if server.waits:
                server.gather(enough=enough, deadline=deadline)
            lost, without = set[str](), check.refused if attempt > 1 else ()
            state = self._collect(state, number, stored, without=without, lost=lost)
            check = server.spool.check_norms(state, stored)
            goes_on = attempt == attempts or (deadline is not None and server.channel.clock.now() >= deadline)
            if len(check.accepted) >= (enough if lost and not goes_on else server.plan.quorum):
                return self._close(state, stored, started)
            server.ledger.append(events.RoundMissed(round=number, attempt=attempt, received=len(check.accepted)))
        raise PeerError(
            f"round {number} got {len(check.accepted)} usable updates from its {server.plan.cohort_size} clients; "
            f"the quorum is {server.plan.quorum}{server.log.last}"
        )

    def _recovered(self, state: RunState, number: int) -> dict[str, Stored]:
        server, stored = self.server, dict[str, Stored]()
        if server.channel.clock.is_virtual:
            # A round that was interrupted is run again from its start, to the same updates and times.
            return stored
        for client in sorted({*server.recorded.clients, *server.roster.nodes}):
            is_recorded = (number, client) in server.recorded.updates
            if found := server.intake.recover(state, number, client, is_recorded=is_recorded):
                stored[client] = found
        return stored

    def _close(self, state: RunState, stored: dict[str, Stored], started: float) -> RunState:
        wanted = self.server.plan.cohort_size
        if not self.server.waits:
            # No other client can come.
            wanted = min(wanted, len({*self.server.roster.nodes, *stored}))
        return self.server.close(state, stored, wanted=wanted, started=started)

    def _collect(
        self, state: RunState, number: int, stored: dict[str, Stored], *, without: Collection[str], lost: set[str]
    ) -> RunState:
        """Ask the cohort, and replacements for clients that fail.

        Args:
            stored: gets what is stored of each update.
            without: clients that gave an update that does not count.
            lost: gets the clients that were asked and will not answer.
        """
        server = self.server
        plan, roster, log = server.plan, server.roster, server.log
        usable = set(stored) - set(without)
        here = self._available()
        deadline = server.deadline()
        able = [*(client for client in here if client not in without), *(usable - set(here))]
        chosen, reserve = self._choose(number, able)
        steps_of = self._budget(number, chosen)
        steps = steps_of and {client: steps_of(client) for client in chosen}
        log.record(events.RoundStarted(round=number, cohort=chosen, steps=steps))
        replacements = (name for name in reserve if name in here and name not in stored)
        held: dict[str, bytes] = {}
        opening = partial(self._opening, state, number)
        with (
            server.dispatch(state, Purpose.TRAIN) as dispatch,
            Arrivals(dispatch, opening, each_bytes=server.spool.ranks.opened_bytes) as came,
        ):
            for name in chosen:
                if name not in usable and name in here:
                    dispatch.ask(name, expected_s=log.expected_s(name, steps_of(name) if steps_of else 0))
            while (found := came.next(deadline, wanted=plan.cohort_size - len(usable))) is not None:
                answer, settle = found
                client = answer.client
                if settle is not None:
                    held[client], taken = settle()
                    if taken is not None:
                        usable.add(client)
                        stored[client] = taken
                else:
                    log.failure(number, answer)
                    lost |= {client} if isinstance(answer.reply, NoAnswer) else set()
                if client in usable:
                    continue
                mark_failed(roster, answer)
                coming = len(usable) + len(dispatch.waiting) + len(came)
                if coming < plan.cohort_size and (name := next(replacements, None)):
                    own = steps_of(name) if steps_of else None
                    log.record(events.ClientReplaced(round=number, client=client, by=name, steps=own))
                    dispatch.ask(name, expected_s=log.expected_s(name, own or 0))
            late = sorted(dispatch.waiting) if len(usable) < plan.cohort_size else []
        log.note_ended(number, roster)
        for client in late:
            log.failure(number, RoundAnswer(client, NoAnswer("no update before the deadline"), 0), reason=Reason.LATE)
        return note_held(state, held)

    def _choose(self, number: int, able: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        plan = self.server.plan
        chosen, reserve = choose_cohort(able, plan.cohort_size, seed=plan.seed, round_number=number)
        if self.server.costs.keeps_cohort:
            # In every attempt at a round: whoever comes for another would count because of what that one sent.
            return self._kept.setdefault(number, chosen), ()
        return chosen, reserve

    def _available(self) -> list[str]:
        server = self.server
        nodes = server.roster.nodes
        available = frozenset(server.channel.clock.available([*nodes.values()], server.plan.quorum))
        return [client for client, node in nodes.items() if node in available]

    def _opening(self, state: RunState, number: int, answer: RoundAnswer) -> Callable[[], _Settle] | None:
        """What checks an update on any thread; what this gives stores it, in the order of arrival."""
        if not isinstance(answer.reply, UpdateReply):
            return None
        server, intake, client, update = self.server, self.server.intake, answer.client, answer.reply.update
        expected = intake.expected(state, number, client, server.roster)
        track = server.roster.clients[client].track

        def work() -> _Settle:
            checked = intake.open(state, expected, track, update)

            def settle() -> tuple[bytes, Stored | None]:
                stored = intake.commit_update(expected, update, answer, checked)
                # Between a simulation's updates memory belongs to training, and what was decoded is kept.
                if stored and isinstance(checked, tuple) and server.waits:
                    contribution = server.spool.contribution(checked[0], expected, track)
                    server.aggregator.fold.arrived(number, contribution, clients=server.plan.cohort_size)
                return state.held_on(track), stored

            return settle

        return work

    def _budget(self, number: int, cohort: Collection[str]) -> Callable[[str], int] | None:
        """The steps of a client in a round, which stay; None if all take as many."""
        plan, steps = self.server.plan, self.server.intake.steps
        if not plan.stepping:
            return None
        for asked in [asked for asked in steps if asked[0] != number]:
            del steps[asked]
        paces = self.server.log.paces
        steps_of = plan.stepping.steps(plan.settings.local_steps, sorted(cohort), paces.known if paces else {})
        return lambda client: steps.setdefault((number, client), steps_of(client))

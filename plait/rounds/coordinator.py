"""The server's side of a run: describe the clients, then broadcast, train, fold, checkpoint and evaluate in each round.

Works the same over every driver: it sees a `Channel`, a run directory and a rule. Updates are spooled, then folded: an
update is on disk before anything else happens to it, and the updates of a round are folded in client order once the
round's answers are in, so the result does not depend on who answered first. A run that was stopped at any point
continues to the same result; first the ledger is completed from the files on disk.

A round ends when enough updates are in, or at its deadline. Clients that fail are replaced while there is time; with
fewer updates than the quorum the round is retried with those it has. Knows no torch, no Flower and no model.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Collection, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from plait.adapters import Json
from plait.aggregation import Rule, ServerOptimizer
from plait.errors import Interrupted, MachineError, PeerError
from plait.rounds import events, record_accountant
from plait.rounds.aggregator import TakesBack
from plait.rounds.answer_log import AnswerLog
from plait.rounds.asynchronous import AsynchronousRounds
from plait.rounds.broadcasts import Broadcasts
from plait.rounds.channel import Channel, NoAnswer, Purpose
from plait.rounds.checkpoint import save_checkpoint
from plait.rounds.dispatch import Aim, Answer, Dispatch, doubt
from plait.rounds.evaluating import Evaluating
from plait.rounds.figures import EVALUATION, decode_figures, scores_of
from plait.rounds.folds import folding
from plait.rounds.intake import Intake
from plait.rounds.ledger import Ledger, read_events
from plait.rounds.masked_attempts import MaskedAttempts
from plait.rounds.masked_rounds import MaskedRounds
from plait.rounds.masked_sum import MaskedSums
from plait.rounds.patience import Patience
from plait.rounds.private_rounds import BudgetSpentError, PrivateRounds
from plait.rounds.recorded import Recorded
from plait.rounds.roster import Roster
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_plan import RunPlan
from plait.rounds.run_state import Held, RunState, choose_cohort, note_held, sample_cohort
from plait.rounds.spool import Stored
from plait.rounds.step_budget import Paces, budget
from plait.rounds.stop import StopRequest
from plait.rounds.task_settings import TaskSettings
from plait.rounds.tracks import Ranks
from plait.rounds.validate import Reason
from plait.rounds.watch import Standing, standing_after
from plait.secagg.roster import Vouch
from plait.secagg.server import Sealed, TooFewError
from plait.wire.messages import EvaluateTask, Task, TrainTask, UpdateReply


@dataclass(eq=False, kw_only=True)
class Coordinator:
    """Runs the remaining rounds."""

    channel: Channel
    directory: RunDirectory
    ledger: Ledger
    plan: RunPlan
    ranks: Ranks
    base_fingerprint: bytes
    rule: Rule
    optimizer: ServerOptimizer
    publish: Callable[[RunState], None]
    stop: StopRequest = field(default_factory=StopRequest)
    private: PrivateRounds | None = None
    masked: MaskedRounds | None = None
    vouch: Vouch = lambda _offer: False

    def __post_init__(self) -> None:
        plan = self.plan
        self._log = AnswerLog(self.channel, self.ledger)
        self._spool = plan.spool(
            self.directory,
            self._log.misfit,
            ranks=self.ranks,
            rule=self.rule,
            base_fingerprint=self.base_fingerprint,
        )
        how = folding(private=self.private, masked=self.masked, buffer=plan.buffer)
        self._aggregator = plan.aggregator(self._spool, how, self.optimizer)
        self._intake = Intake(self._spool, self._aggregator.fold.check, self.directory, self._log, plan.settings)
        self._sums = MaskedSums(
            self.channel, self.directory, self.ledger, self.vouch, self._patience, self._pay_for_sum
        )
        self._attempts = MaskedAttempts(
            plan=plan,
            sums=self._sums,
            log=self._log,
            parameters=self.ranks.master.spec.layout.size,
            dispatch=self._dispatch,
            gather=self._gather,
            deadline=self._deadline,
        )
        self._settings = TaskSettings(plan, self.rule, new_factors=self._spool.new_factors)
        self._standing = Standing()
        self._ended = False
        self._beside: Evaluating | None = None

    def run(self, state: RunState) -> RunState:
        """Finish the run.

        Args:
            state: the current state.

        Returns:
            The final state; checkpoints, ledger and published adapter are up to date after every round.

        Raises:
            PeerError: fewer clients than planned, or than the quorum if all are present from the start; or a round
                with fewer usable updates than the quorum.
            Interrupted: the user asked to stop.
            MachineError: the disk is full.
        """
        recorded = Recorded.of(read_events(self.directory.ledger))
        self._log.misfits.update(recorded.misfits)
        self._ended = recorded.ended_early
        self._log.epsilons.update(recorded.epsilons)
        self._sums.recall(read_events(self.directory.ledger))
        try:
            if recorded.finished < state.round:
                self._conclude(state, recorded)
            self._intake.steps.update(recorded.steps)
            if self.plan.has_paces:
                self._log.paces = Paces.of(
                    read_events(self.directory.ledger),
                    local_steps=self.plan.settings.local_steps,
                )
            self._standing = standing_after(each for each in recorded.held_out if each.round < state.round)
            newest = next((each for each in recorded.held_out if each.round == state.round), None)
            if newest and self._is_over(state.round, self._standing.after(newest)):
                return self._follow_up(state, newest, recorded)
            if reason := self._private_ending(state.round):
                return self._end(state, recorded, reason)
            with self._roster() as roster:
                state = self._begin(state, roster, recorded)
                if newest:
                    state = self._follow_up(state, newest, recorded)
                elif self._evaluation_due(state.round):
                    state = self._evaluate(state, roster, recorded)
                with self._rounds(state, roster, recorded) as next_round:
                    while not self._is_over(state.round, self._standing):
                        if reason := self._private_ending(state.round):
                            return self._end(state, recorded, reason)
                        try:
                            state = next_round(state)
                        except BudgetSpentError as error:
                            return self._end(state, recorded, str(error))
                        if self._evaluation_due(state.round):
                            state = self._evaluate(state, roster, recorded)
        except (Interrupted, KeyboardInterrupt):
            self.ledger.append(events.Interrupted(round=state.round))
            raise
        return state

    @property
    def _withholds(self) -> bool:
        """Whether clients keep their losses to themselves."""
        return bool(self.private) or self.plan.settings.records_are_private

    def _private_ending(self, number: int) -> str:
        """Why a private run, which has no evaluations to end after, ends after this round; empty if it goes on."""
        if not self._withholds or number == self.plan.rounds:
            return ""
        if self.private and not self.private.affords(number + 1):
            return f"another one would exceed epsilon {self.private.privacy.epsilon:g}"
        return self.stop.ending

    def _end(self, state: RunState, recorded: Recorded, reason: str) -> RunState:
        """End a private run before its last round; the adapter of this one is kept."""
        if not recorded.ended_early:
            self.ledger.append(events.EndedEarly(round=state.round, idle=0, reason=reason))
        return state

    def _begin(self, state: RunState, roster: Roster, recorded: Recorded) -> RunState:
        """Gather the clients; returns what they are known to hold."""
        self._gather(roster, begun=recorded.begun)
        if state.round == 0:
            # Every described client derived the initial adapter from the spec's seed: if the run starts from it,
            # nothing need be sent.
            held = [Held(adapter.initial.digest()) for adapter in self.ranks.adapters]
            return replace(state, held={client: held[track] for client, track in roster.tracks.items()})
        is_evaluated = any(each.round == state.round for each in recorded.held_out)
        if self.channel.open_ended or (self.channel.clock.is_virtual and is_evaluated):
            # Clients that evaluated the last round hold its adapter, which the earlier checkpoint does not record. With
            # this their task has the same bytes as before, and work in progress need not be restarted.
            evaluated = {
                client: state.held_on(track)
                for client, track in roster.tracks.items()
                if (state.round, client) in recorded.evaluations
            }
            state = note_held(state, evaluated)
        return state

    def _roster(self) -> Roster:
        settings = self._settings.to_describe()
        return Roster(
            self.channel,
            self.ledger,
            settings,
            self.ranks,
            self.base_fingerprint,
            patience=self._patience,
            region_clients=self.plan.region_clients,
        )

    def _resting(self, number: int) -> frozenset[str]:
        """Clients that may not take part in a round, because they did too few rounds before."""
        return self.private.resting(number) if self.private else frozenset()

    def _gather(self, roster: Roster, *, begun: bool = True, resting: Collection[str] = ()) -> None:
        """Wait for the first clients; later for a while, and then continue with the quorum."""
        least = max(self.plan.quorum, self.masked.least(Purpose.TRAIN) if self.masked else 0)
        enough = least if begun or not self.channel.open_ended else None
        roster.gather(self.plan.clients, enough=enough, resting=resting)

    @property
    def _patience(self) -> Patience:
        plan = self.plan
        if plan.deadline_s is None:
            return plan.patience
        return replace(plan.patience, gathering_s=min(plan.deadline_s, plan.patience.gathering_s))

    def _evaluation_due(self, round_number: int) -> bool:
        if self._withholds:
            # The losses of clients' data are theirs.
            return False
        is_last = round_number == self.plan.rounds or bool(self.stop.ending)
        return is_last or round_number % self.plan.eval_every == 0

    @contextmanager
    def _rounds(self, state: RunState, roster: Roster, recorded: Recorded) -> Generator[Callable[[RunState], RunState]]:
        """How to go on from a state to the one after the next round."""
        buffer = self.plan.buffer
        if buffer is None:
            yield lambda state: self._round(state, roster, recorded)
            return
        # Only a buffer that lacks a slow client waits for it, twice as long as others need to make it too old.
        slow_factor = 2 * buffer.max_staleness * buffer.size / self.plan.cohort_size
        patience = replace(self._patience, slow_factor=slow_factor)
        with self._dispatch(state, roster, Purpose.TRAIN, state.round + 1, patience=patience) as dispatch:
            rounds = AsynchronousRounds(
                plan=self.plan,
                buffer=buffer,
                aggregator=self._aggregator,
                ranks=self.ranks,
                base_fingerprint=self.base_fingerprint,
                intake=self._intake,
                roster=roster,
                dispatch=dispatch,
                recorded=recorded,
                gather=lambda: self._gather(roster),
                beside=self._look_beside,
                conclude=lambda state: self._conclude(state, recorded),
            )
            with ExitStack() as stack:
                stack.push(self._leave_beside)
                yield rounds.next

    def _leave_beside(self, *error: object) -> None:
        """The run ends, or a server that is told to end leaves its clients at their tasks."""
        if self._beside:
            self._beside.__exit__(*error)

    def _round(self, state: RunState, roster: Roster, recorded: Recorded) -> RunState:
        if self.masked:
            return self._masked_round(self.masked, state, roster, recorded)
        started = time.perf_counter()
        number = state.round + 1
        known = {*recorded.clients, *roster.nodes}
        stored: dict[str, Stored] = {}
        # By a virtual clock a round that was interrupted is run again from its start, to the same updates and times.
        for client in sorted(() if self.channel.clock.is_virtual else known):
            is_recorded = (number, client) in recorded.received
            if found := self._intake.recover(state, number, client, is_recorded=is_recorded):
                stored[client] = found
        check = self._spool.check_norms(state, stored)
        if self._aggregator.fold.is_settled(state, number, check.accepted):
            # More updates would need other noise, and that a second charge.
            return self._close(state, number, stored, roster, recorded, started)
        may_succeed_later = self.channel.open_ended or self.channel.clock.is_virtual
        for attempt in range(1, (self.plan.attempts if may_succeed_later else 1) + 1):
            if self.channel.open_ended:
                self._gather(roster, resting=self._resting(number))
            state = self._collect(state, roster, number, stored, without=check.refused if attempt > 1 else ())
            check = self._spool.check_norms(state, stored)
            if len(check.accepted) >= self.plan.quorum:
                break
            self.ledger.append(events.RoundMissed(round=number, attempt=attempt, received=len(check.accepted)))
        else:
            raise PeerError(
                f"round {number} got {len(check.accepted)} usable updates from its {self.plan.cohort_size} clients, "
                f"expected at least {self.plan.quorum}{self._told_resting(number)}{self._log.last}"
            )

        return self._close(state, number, stored, roster, recorded, started)

    def _told_resting(self, number: int) -> str:
        resting = len(self._resting(number))
        return f"; {resting} may not take part yet, because dp-min-separation is not over for them" if resting else ""

    def _masked_round(self, masked: MaskedRounds, state: RunState, roster: Roster, recorded: Recorded) -> RunState:
        """A round of which the server sees the sum of the updates alone."""
        started, number = time.perf_counter(), state.round + 1
        wanted = masked.wanted(state, self._spool.sent(number))
        result = self._attempts.run(wanted, Purpose.TRAIN, state, roster)
        if isinstance(result, TooFewError):
            raise PeerError(
                f"round {number} ended without a sum in {self.plan.attempts} attempts: {result}"
            ) from result
        return self._close(result, number, {}, roster, recorded, started)

    def _pay_for_sum(self, sealed: Sealed) -> None:
        """Record that a sum with its clients' own noise is about to be known."""
        if self.private and self.masked and self.masked.privacy:
            roster = sealed.roster
            commitment = hashlib.sha256(roster.survivors_text(sealed.sharers, sealed.survivors)).hexdigest()
            clip_norm = roster.unit * self.masked.privacy.shares(roster.size).sensitivity
            self.private.intend(roster.session.round, commitment, clip_norm=clip_norm)

    def _masked_evaluation(self, masked: MaskedRounds, state: RunState, roster: Roster, recorded: Recorded) -> RunState:
        """The mean held-out loss; whose is how large stays at the clients."""
        wanted = masked.wanted_losses(state)
        result = self._attempts.run(wanted, Purpose.EVALUATE, state, roster)
        if isinstance(result, TooFewError):
            if self.channel.open_ended:
                return state
            raise PeerError(f"round {state.round} could not be evaluated: {result}") from result
        state = result
        summed = self._sums.stored(wanted)
        if summed is None:
            raise MachineError(f"the sum of the losses of round {state.round} is gone, expected it to stay")
        try:
            if not summed.clients:
                raise PeerError("the sum of the losses cannot be unmasked")
            mean, own = scores_of(decode_figures(summed.figures, EVALUATION), clients=len(summed.clients))
        except PeerError as error:
            # One member's figures are no reason to end the others' run.
            self.ledger.append(events.EvaluationMissed(round=state.round, detail=str(error)))
            return state
        evaluated = events.Evaluated(round=state.round, adapter=state.shadow.digest().hex(), **dict(mean), own=own)
        self.ledger.append(evaluated)
        return self._follow_up(state, evaluated, recorded)

    def _close(
        self,
        state: RunState,
        number: int,
        stored: dict[str, Stored],
        roster: Roster,
        recorded: Recorded,
        started: float,
    ) -> RunState:
        """Fold the updates of a round."""
        standing = self._standing if self.plan.watch.take_back else None
        state, finished = self._aggregator.step(state, number, stored, standing=standing)
        wanted = self.plan.cohort_size
        if not self.channel.open_ended:
            # Nobody else can come.
            wanted = min(wanted, len({*roster.nodes, *stored}))
        lacking, wall_s = max(0, wanted - finished.received), round(time.perf_counter() - started, 3)
        told: dict[str, object] = {"refused": lacking, "wall_s": wall_s, "virtual_s": self._virtual_s}
        state = replace(state, finished=finished.model_copy(update=told))
        save_checkpoint(self.directory.checkpoints, state, self.ranks)
        self._conclude(state, recorded)
        return state

    def _collect(
        self, state: RunState, roster: Roster, number: int, stored: dict[str, Stored], *, without: Collection[str]
    ) -> RunState:
        """Ask the cohort, and replacements for clients that fail; `stored` gets the norms of each stored update.

        The clients in `without` gave an update that does not count.
        """
        plan = self.plan
        usable = set(stored) - set(without)
        available = frozenset(self.channel.clock.available([*roster.nodes.values()], plan.quorum))
        resting = self._resting(number)
        here = [client for client, node in roster.nodes.items() if node in available and client not in resting]
        deadline = self._deadline()
        chosen, reserve = choose_cohort(
            [*(client for client in here if client not in without), *(usable - set(here))],
            plan.cohort_size,
            over_selection=plan.over_selection,
            seed=plan.seed,
            round_number=number,
        )
        steps_of = self._budget(number, chosen)
        self._log.tell(
            events.RoundStarted(
                round=number,
                cohort=chosen,
                steps=steps_of and {c: steps_of(c) for c in chosen},
                resting=len(resting & roster.nodes.keys()) or None if len(chosen) < plan.cohort_size else None,
            )
        )
        replacements = (name for name in reserve if name in here and name not in stored)
        held: dict[str, Held] = {}
        with self._dispatch(state, roster, Purpose.TRAIN, number) as dispatch:
            for name in chosen:
                if name not in usable:
                    dispatch.ask(name, expected_s=self._log.paces.expected_s(name, steps_of(name) if steps_of else 0))
            while len(usable) < plan.cohort_size and (answer := dispatch.next_answer(deadline)):
                client = answer.client
                if isinstance(answer.reply, UpdateReply):
                    track = roster.tracks[client]
                    expected = self._intake.expected(state, number, client, roster)
                    taken = self._intake.receive(state, expected, track, answer.reply.update, answer)
                    if taken is not None:
                        usable.add(client)
                        stored[client] = taken
                    held[client] = state.held_on(track)
                else:
                    self._log.failure(number, answer)
                if client in usable:
                    continue
                doubt(roster, answer)
                if len(usable) + len(dispatch.waiting) < plan.cohort_size and (name := next(replacements, None)):
                    steps = steps_of(name) if steps_of else None
                    self._log.tell(events.ClientReplaced(round=number, client=client, by=name, steps=steps))
                    dispatch.ask(name, expected_s=self._log.paces.expected_s(name, steps or 0))
            late = sorted(dispatch.waiting) if len(usable) < plan.cohort_size else []
        self._log.note_spans(number, roster)
        for client in late:
            self._log.failure(number, Answer(client, NoAnswer("no update before the deadline"), 0), reason=Reason.LATE)
        return note_held(state, held)

    def _budget(self, number: int, cohort: Collection[str]) -> Callable[[str], int] | None:
        """The steps of a client in a round; those that it has been asked for stay. None if all take as many."""
        if not self.plan.by_speed:
            return None
        for asked in [asked for asked in self._intake.steps if asked[0] != number]:
            del self._intake.steps[asked]
        planned = budget(self.plan.settings.local_steps, sorted(cohort), self._log.paces.known)
        return lambda client: self._intake.steps.setdefault((number, client), planned.steps_of(client))

    def _deadline(self) -> float | None:
        """When to stop waiting for answers to tasks that are sent now, on the channel's clock."""
        return None if self.plan.deadline_s is None else self.channel.clock.now() + self.plan.deadline_s

    @property
    def _virtual_s(self) -> float | None:
        """The virtual clock; None without one."""
        clock = self.channel.clock
        return clock.now() if clock.is_virtual else None

    def _conclude(self, state: RunState, recorded: Recorded) -> None:
        """Finish a round once its checkpoint is complete."""
        if self.private and state.clip_norm is not None and state.round not in recorded.spent:
            # Before the adapter is published, whose card says what it cost.
            self.ledger.append(self.private.spent(state.round, state.clip_norm))
        masked_records = bool(self.masked) and self.plan.settings.records_are_private
        if (self._log.epsilons or masked_records) and state.finished and state.round not in recorded.spent:
            self.ledger.append(record_accountant.spent(state.round, self.plan.settings, self._log.epsilons))
        if not self.plan.watch.keep_best:
            self.publish(state)
        if not self.plan.keep_updates:
            self.directory.clear_updates()
        if state.finished:
            self._log.tell(state.finished)

    def _evaluate(self, state: RunState, roster: Roster, recorded: Recorded) -> RunState:
        if self.masked:
            return self._masked_evaluation(self.masked, state, roster, recorded)
        if self.channel.open_ended:
            if self.plan.buffer:
                self._conclude_beside()
                if 0 < state.round < self.plan.rounds and not self.stop.ending:
                    return self._begin_beside(state, roster)
            self._gather(roster)
        deadline = self._deadline()
        held: dict[str, Held] = {}
        with self._asked_to_evaluate(state, roster) as evaluating:
            while answer := evaluating.dispatch.next_answer(deadline):
                if evaluating.take(answer):
                    held[answer.client] = evaluating.held[answer.client]
        return self._conclude_evaluation(note_held(state, held), evaluating, roster, recorded)

    def _asked_to_evaluate(self, state: RunState, roster: Roster, *, patience: Patience | None = None) -> Evaluating:
        """An evaluation of this state's adapter, whose clients have been asked."""
        dispatch = self._dispatch(state, roster, Purpose.EVALUATE, state.round, patience=patience)
        count = self.plan.eval_clients or len(roster.nodes)
        clients = sample_cohort(list(roster.nodes), count, seed=self.plan.seed, round_number=0)
        return Evaluating(state, roster, dispatch, self._log, clients)

    def _begin_beside(self, state: RunState, roster: Roster) -> RunState:
        """Ask for an evaluation that training goes on beside; each client evaluates before it trains again."""
        patience = replace(self._patience, slow_factor=math.inf)
        self._beside = self._asked_to_evaluate(state, roster, patience=patience)
        self._beside.__enter__()
        return note_held(state, {client: state.held_on(roster.tracks[client]) for client in self._beside.clients})

    def _look_beside(self) -> None:
        """Take the answers that are there to an evaluation beside training."""
        if self._beside is None:
            return
        dispatch = self._beside.dispatch
        while dispatch.waiting and (answer := dispatch.next_answer(self.channel.clock.now()) or dispatch.give_up()):
            self._beside.take(answer)
        if not dispatch.waiting:
            self._conclude_beside()

    def _conclude_beside(self) -> None:
        """Record an evaluation beside training; who has not answered by now is left out."""
        evaluating, self._beside = self._beside, None
        if evaluating is None:
            return
        evaluating.dispatch.close()
        if evaluated := evaluating.result(virtual_s=None):
            self.ledger.append(evaluated)
            self._standing = self._standing.after(evaluated)

    def _conclude_evaluation(
        self, state: RunState, evaluating: Evaluating, roster: Roster, recorded: Recorded
    ) -> RunState:
        """Record an evaluation that is over, and do what follows from it."""
        self._log.note_spans(evaluating.state.round, roster)
        evaluated = evaluating.result(virtual_s=self._virtual_s)
        if evaluated:
            self.ledger.append(evaluated)
            return self._follow_up(state, evaluated, recorded)
        if not self.channel.open_ended:
            raise PeerError(f"no client could evaluate round {state.round}, expected at least 1")
        return state

    def _is_over(self, number: int, standing: Standing) -> bool:
        """Whether no round comes after this one."""
        patience = self.plan.watch.patience
        return self._ended or number == self.plan.rounds or bool(patience and standing.idle >= patience)

    def _follow_up(self, state: RunState, newest: events.Evaluated, recorded: Recorded) -> RunState:
        """Do what an evaluation of this state leads to: publish it, take its step back, or end the run.

        A run that is killed before its next checkpoint does the same again from its ledger, and tells of it once.
        """
        watch = self.plan.watch
        self._standing = standing = self._standing.after(newest)
        if watch.keep_best and standing.best is newest:
            self.publish(state)
        # Only here: what a run ends with has been evaluated.
        self._ended = self._ended or bool(self.stop.ending)
        if self._is_over(state.round, standing):
            if state.round < self.plan.rounds and not recorded.ended_early:
                reason = self.stop.ending
                self.ledger.append(events.EndedEarly(round=state.round, idle=standing.idle, reason=reason))
            if standing.worse and watch.take_back and not watch.keep_best:
                self._publish_accepted(state, recorded)
            return state
        if not watch.take_back:
            return state
        if not standing.worse:
            keeps = self._aggregator.takes_back is not TakesBack.NOTHING
            return state.accept() if keeps else state
        return self._take_back(state, recorded)

    def _publish_accepted(self, state: RunState, recorded: Recorded) -> None:
        """Publish the adapter of the last evaluation that was not worse, in place of the one that the run ends with."""
        accepted, standing = state.accepted_shadow, self._standing
        if accepted is None:
            return
        if state.round not in recorded.taken_back:
            self.ledger.append(
                events.StepTakenBack(
                    round=state.round,
                    worse=standing.worse,
                    accepted=standing.accepted,
                    taken_back=TakesBack.ALL.value,
                    adapter=accepted.digest().hex(),
                    ends=True,
                )
            )
        tracks = (replace(state.tracks[0], shadow=accepted), *state.tracks[1:])
        self.publish(replace(state, round=standing.accepted, tracks=tracks))

    def _take_back(self, state: RunState, recorded: Recorded) -> RunState:
        fields: dict[str, Json] = {"taken_back": TakesBack.NOTHING.value}
        if state.accepted is not None:
            state, fields = self._aggregator.take_back(state)
        if state.round not in recorded.taken_back:
            standing = self._standing
            self.ledger.append(
                events.StepTakenBack.model_validate(
                    {
                        "round": state.round,
                        "worse": standing.worse,
                        "accepted": standing.accepted,
                        "scale": standing.scale,
                        **fields,
                    }
                )
            )
        if "adapter" in fields and not self.plan.watch.keep_best:
            self.publish(state)
        return state

    def _dispatch(
        self,
        state: RunState,
        roster: Roster,
        purpose: Purpose,
        number: int,
        *,
        attempt: bytes = b"",
        patience: Patience | None = None,
    ) -> Dispatch:
        return Dispatch(
            channel=self.channel,
            roster=roster,
            aim=Aim(number, Broadcasts(state, self.ranks, self.base_fingerprint)),
            held=state.held,
            ledger=self.ledger,
            purpose=purpose,
            task=partial(self._task, purpose),
            patience=patience or self._patience,
            attempt=attempt,
        )

    def _task(self, purpose: Purpose, client: str, number: int, broadcast: bytes, base: bytes) -> Task:
        if purpose is Purpose.EVALUATE:
            return EvaluateTask(self._settings.to_evaluate(number), broadcast, base)
        steps = self._intake.steps.get((number, client), 0)
        return TrainTask(self._settings.to_train(number, client, steps=steps), broadcast, base)

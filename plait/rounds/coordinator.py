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
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace

from plait.adapters import Json
from plait.aggregation import Rule, ServerOptimizer
from plait.errors import Interrupted, MachineError, PeerError
from plait.rounds import events, record_accountant
from plait.rounds.aggregator import Aggregator, Stored, TakesBack, Weighting
from plait.rounds.broadcasts import Broadcasts
from plait.rounds.channel import Channel, NoAnswer, Purpose
from plait.rounds.checkpoint import save_checkpoint
from plait.rounds.dispatch import Answer, Dispatch
from plait.rounds.evaluation import ClientLoss, client_losses, mean_loss
from plait.rounds.figures import EVALUATION, decode_figures, scores_of
from plait.rounds.ledger import Ledger, read_events
from plait.rounds.masked_rounds import MaskedRounds
from plait.rounds.masked_stage import TRAINING_STAGE
from plait.rounds.masked_sum import MaskedSums, Wanted
from plait.rounds.norm_bound import NormBound, Norms
from plait.rounds.patience import Patience
from plait.rounds.private_rounds import BudgetSpentError, PrivateRounds
from plait.rounds.recorded import Recorded
from plait.rounds.roster import Roster
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_state import Held, RunState, choose_cohort, note_held, sample_cohort
from plait.rounds.step_budget import Paces, budget
from plait.rounds.stop import StopRequest
from plait.rounds.task_settings import TaskSettings
from plait.rounds.tracks import Ranks
from plait.rounds.validate import Expected, Reason, UpdateRefused, check_evaluation, open_update
from plait.rounds.watch import Standing, Watch, standing_after
from plait.rounds.weights import WEIGHT_RATIO
from plait.secagg.roster import Session, Vouch
from plait.secagg.server import Sealed, TooFewError
from plait.wire.envelope import EPSILON, Opened
from plait.wire.masking import MaskedReply, MaskedUpdate
from plait.wire.messages import EvaluateTask, Evaluation, Refusal, Task, TrainTask, UpdateReply, encode_reply
from plait.wire.settings import Settings


@dataclass(frozen=True)
class RunPlan:
    """The settings of the round loop itself; those for clients are in `settings`.

    Attributes:
        clients: the run begins once this many can take part.
        eval_every: rounds from one evaluation to the next.
        seed: decides cohorts and the clients' seeds.
        eval_clients: clients that evaluate; 0 for all.
        deadline_s: seconds that a round waits for updates (and an evaluation for losses); None for no limit.
        over_selection: extra clients to ask, as a fraction of those wanted; the last to answer are released.
        attempts: attempts at a round that falls below its quorum.
        weight_ratio: largest weight, as a multiple of the round's median.
        keep_updates: whether updates stay in the spool after their round.
        by_speed: whether each client takes as many steps as its speed allows (see step_budget.py).
        patience: how long to wait for clients that come and go; at most `deadline_s`, if there is one.
        watch: what follows from its evaluations.
    """

    rounds: int
    clients: int
    cohort_size: int
    eval_every: int
    seed: int
    settings: Settings
    eval_clients: int = 0
    quorum: int = 1
    deadline_s: float | None = None
    over_selection: float = 0.0
    attempts: int = 1
    norm_bound: NormBound = field(default_factory=NormBound)
    weighting: Weighting = Weighting.EXAMPLES
    weight_ratio: float = WEIGHT_RATIO
    keep_updates: bool = False
    by_speed: bool = False
    patience: Patience = field(default_factory=Patience)
    watch: Watch = field(default_factory=Watch)


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
        self._misfits: set[tuple[int, str, str]] = set()
        self._aggregator = Aggregator(
            directory=self.directory,
            refused=self._log_misfit,
            ranks=self.ranks,
            rule=self.rule,
            optimizer=self.optimizer,
            base_fingerprint=self.base_fingerprint,
            codec=plan.settings.codec,
            seed=plan.seed,
            norm_bound=plan.norm_bound,
            weighting=plan.weighting,
            weight_ratio=plan.weight_ratio,
            private=self.private,
            masked=self.masked,
        )
        self._sums = MaskedSums(
            self.channel, self.directory, self.ledger, self.vouch, self._patience, self._pay_for_sum
        )
        new_factors = self._aggregator.new_factors
        self._settings = TaskSettings(plan.settings, plan.rounds, plan.seed, self.rule, new_factors=new_factors)
        self._standing = Standing()
        self._ended = False
        self._paces = Paces()
        self._steps: dict[tuple[int, str], int] = {}
        self._epsilons: dict[str, float] = {}

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
        self._misfits.update(recorded.misfits)
        self._ended = recorded.ended_early
        self._epsilons.update(recorded.epsilons)
        try:
            if recorded.finished < state.round:
                self._conclude(state, recorded)
            self._steps = dict(recorded.steps)
            self._paces = Paces.of(read_events(self.directory.ledger) if self.plan.by_speed else ())
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
                while not self._is_over(state.round, self._standing):
                    if reason := self._private_ending(state.round):
                        return self._end(state, recorded, reason)
                    try:
                        state = self._round(state, roster, recorded)
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
            for client, track in roster.tracks.items():
                if (state.round, client) in recorded.evaluations:
                    state = note_held(state, client, state.held_on(track))
        return state

    def _roster(self) -> Roster:
        settings = self._settings.to_describe()
        return Roster(self.channel, self.ledger, settings, self.ranks, self.base_fingerprint, patience=self._patience)

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

    def _round(self, state: RunState, roster: Roster, recorded: Recorded) -> RunState:
        if self.masked:
            return self._masked_round(self.masked, state, roster, recorded)
        started = time.perf_counter()
        number = state.round + 1
        known = {*recorded.clients, *roster.nodes}
        stored: dict[str, Stored] = {}
        # By a virtual clock a round that was interrupted is run again from its start, to the same updates and times.
        for client in sorted(() if self.channel.clock.is_virtual else known):
            self._recover(state, number, client, recorded, stored)
        check = self._aggregator.check_norms(state, stored)
        if self._aggregator.is_intended(state, number, check.accepted):
            # More updates would need other noise, and that a second charge.
            return self._close(state, number, stored, roster, recorded, started)
        may_succeed_later = self.channel.open_ended or self.channel.clock.is_virtual
        for attempt in range(1, (self.plan.attempts if may_succeed_later else 1) + 1):
            if self.channel.open_ended:
                self._gather(roster, resting=self._resting(number))
            state = self._collect(state, roster, number, stored, without=check.refused if attempt > 1 else ())
            check = self._aggregator.check_norms(state, stored)
            if len(check.accepted) >= self.plan.quorum:
                break
            self.ledger.append(events.RoundMissed(round=number, attempt=attempt, received=len(check.accepted)))
        else:
            raise PeerError(
                f"round {number} got {len(check.accepted)} usable updates from its {self.plan.cohort_size} clients, "
                f"expected at least {self.plan.quorum}{self._told_resting(number)}"
            )

        return self._close(state, number, stored, roster, recorded, started)

    def _told_resting(self, number: int) -> str:
        resting = len(self._resting(number))
        return f"; {resting} may not take part yet, because dp-min-separation is not over for them" if resting else ""

    def _masked_round(self, masked: MaskedRounds, state: RunState, roster: Roster, recorded: Recorded) -> RunState:
        """A round of which the server sees the sum of the updates alone."""
        started, number = time.perf_counter(), state.round + 1
        wanted = masked.wanted(state, self._aggregator.sent(number))
        result = self._attempt(wanted, Purpose.TRAIN, state, roster)
        if isinstance(result, TooFewError):
            raise PeerError(
                f"round {number} ended without a sum in {self.plan.attempts} attempts: {result}"
            ) from result
        return self._close(result, number, {}, roster, recorded, started)

    def _attempt(self, wanted: Wanted, purpose: Purpose, state: RunState, roster: Roster) -> RunState | TooFewError:
        """Take a masked sum, in as many attempts as a round has.

        Returns:
            The state, with what clients are known to hold; or why the last attempt failed.
        """
        error: TooFewError | None = None
        for attempt in range(1, self.plan.attempts + 1):
            if self._sums.stored(wanted) is not None:
                return state
            if self.channel.open_ended:
                self._gather(roster)
            chosen = self._invited(wanted, purpose, roster)
            if purpose is Purpose.TRAIN:
                self.ledger.append(events.RoundStarted(round=wanted.round, cohort=tuple(chosen)))
            try:
                return self._take(wanted, purpose, state, roster, chosen)
            except TooFewError as too_few:
                error = too_few
            self.ledger.append(events.RoundMissed(round=wanted.round, attempt=attempt, received=error.count))
        return error or TooFewError("no attempt was made, expected at least 1")

    def _invited(self, wanted: Wanted, purpose: Purpose, roster: Roster) -> Sequence[str]:
        names, seed = list(roster.nodes), self.plan.seed
        if purpose is Purpose.EVALUATE:
            return sample_cohort(names, self.plan.eval_clients or len(names), seed=seed, round_number=0)
        size = self.plan.cohort_size
        return choose_cohort(names, size, over_selection=0, seed=seed, round_number=wanted.round)[0]

    def _take(
        self, wanted: Wanted, purpose: Purpose, state: RunState, roster: Roster, chosen: Sequence[str]
    ) -> RunState:
        """Take a masked sum; it is on disk afterwards.

        Raises:
            TooFewError: too few clients were left at some stage.
        """
        answered: list[str] = []

        def ask(session: Session, clients: Sequence[str]) -> Iterator[tuple[str, MaskedUpdate]]:
            deadline = self._deadline()
            with self._dispatch(state, roster, purpose, wanted.round, attempt=session.attempt) as dispatch:
                for client in clients:
                    dispatch.ask(client)
                while answer := dispatch.next_answer(deadline):
                    reply = answer.reply
                    if not (isinstance(reply, MaskedReply) and isinstance(reply.answer, MaskedUpdate)):
                        self._log_failure(wanted.round, answer, stage=TRAINING_STAGE)
                        self._doubt(roster, answer)
                        continue
                    self._log_masked(wanted, answer, reply.answer)
                    answered.append(answer.client)
                    yield answer.client, reply.answer
                late = Reason.NO_ANSWER if deadline is None else Reason.LATE
                for client in sorted(dispatch.waiting):
                    silent = Answer(client, NoAnswer("gave no answer"), 0)
                    self._log_failure(wanted.round, silent, reason=late, stage=TRAINING_STAGE)

        self._sums.take(wanted, roster, chosen, ask)
        for client in answered:
            state = note_held(state, client, state.held_on(0))
        return state

    def _log_masked(self, wanted: Wanted, answer: Answer, update: MaskedUpdate) -> None:
        number, client, uplink_bytes = wanted.round, answer.client, answer.uplink_bytes
        if wanted.purpose == Purpose.EVALUATE.value:
            purpose = wanted.purpose
            self.ledger.note(
                events.ReplyReceived(round=number, client=client, purpose=purpose, uplink_bytes=uplink_bytes)
            )
            return
        payload_bytes = len(update.values)
        self.ledger.note(
            events.UpdateReceived(
                round=number,
                client=client,
                uplink_bytes=uplink_bytes,
                payload_bytes=payload_bytes,
                codec=events.MASKED_CODEC,
                bits_per_parameter=8 * payload_bytes / self.ranks.master.spec.layout.size,
            )
        )

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
        result = self._attempt(wanted, Purpose.EVALUATE, state, roster)
        if isinstance(result, TooFewError):
            if self.channel.open_ended:
                return state
            raise PeerError(f"round {state.round} could not be evaluated: {result}") from result
        state = result
        summed = self._sums.stored(wanted)
        if summed is None:
            raise MachineError(f"the sum of the losses of round {state.round} is gone, expected it to stay")
        mean, own = scores_of(decode_figures(summed.figures, EVALUATION))
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
        scale = self._standing.scale if self.plan.watch.take_back else 1.0
        state, finished = self._aggregator.step(state, number, stored, scale=scale)
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
        self._tell(
            events.RoundStarted(
                round=number,
                cohort=chosen,
                steps=steps_of and {c: steps_of(c) for c in chosen},
                resting=len(resting & roster.nodes.keys()) or None if len(chosen) < plan.cohort_size else None,
            )
        )
        replacements = (name for name in reserve if name in here and name not in stored)
        with self._dispatch(state, roster, Purpose.TRAIN, number) as dispatch:
            for name in chosen:
                if name not in usable:
                    dispatch.ask(name)
            while len(usable) < plan.cohort_size and (answer := dispatch.next_answer(deadline)):
                client = answer.client
                if isinstance(answer.reply, UpdateReply):
                    track = roster.tracks[client]
                    expected = self._expected(state, number, client, roster)
                    taken = self._receive(state, expected, track, answer.reply.update, answer)
                    if taken is not None:
                        usable.add(client)
                        stored[client] = taken
                    state = note_held(state, client, state.held_on(track))
                else:
                    self._log_failure(number, answer)
                if client in usable:
                    continue
                self._doubt(roster, answer)
                if len(usable) + len(dispatch.waiting) < plan.cohort_size and (name := next(replacements, None)):
                    steps = steps_of(name) if steps_of else None
                    self._tell(events.ClientReplaced(round=number, client=client, by=name, steps=steps))
                    dispatch.ask(name)
            late = sorted(dispatch.waiting) if len(usable) < plan.cohort_size else []
        self._note_spans(number, roster)
        for client in late:
            self._log_failure(number, Answer(client, NoAnswer("no update before the deadline"), 0), reason=Reason.LATE)
        return state

    def _budget(self, number: int, cohort: Collection[str]) -> Callable[[str], int] | None:
        """The steps of a client in a round; those that it has been asked for stay. None if all take as many."""
        if not self.plan.by_speed:
            return None
        self._steps = {asked: steps for asked, steps in self._steps.items() if asked[0] == number}
        planned = budget(self.plan.settings.local_steps, sorted(cohort), self._paces.known)
        return lambda client: self._steps.setdefault((number, client), planned.steps_of(client))

    def _tell(self, event: events.Event) -> None:
        """Record an event from which clients' paces follow."""
        self.ledger.append(event)
        self._paces.take(event)

    def _deadline(self) -> float | None:
        """When to stop waiting for answers to tasks that are sent now, on the channel's clock."""
        return None if self.plan.deadline_s is None else self.channel.clock.now() + self.plan.deadline_s

    @property
    def _virtual_s(self) -> float | None:
        """The virtual clock; None without one."""
        clock = self.channel.clock
        return clock.now() if clock.is_virtual else None

    def _note_spans(self, number: int, roster: Roster) -> None:
        """Record what simulated devices did."""
        clients = {node: client for client, node in roster.nodes.items()}
        for span in self.channel.clock.spans():
            told = {name: value for name, value in asdict(span).items() if name != "node"}
            worked = events.DeviceWorked(round=number, client=clients[span.node], **told)
            self.ledger.note(worked)
            self._paces.take(worked)

    @staticmethod
    def _doubt(roster: Roster, answer: Answer) -> None:
        """Ask a failed client nothing before it has described itself again, if it is to be asked at all."""
        if answer.given_up and isinstance(answer.reply, NoAnswer):
            roster.rest(answer.client, answer.given_up, answer.reply.detail, waited_s=answer.waited_s)
        else:
            roster.doubt(answer.client)

    def _conclude(self, state: RunState, recorded: Recorded) -> None:
        """Finish a round once its checkpoint is complete."""
        if self.private and state.clip_norm is not None and state.round not in recorded.spent:
            # Before the adapter is published, whose card says what it cost.
            self.ledger.append(self.private.spent(state.round, state.clip_norm))
        masked_records = bool(self.masked) and self.plan.settings.records_are_private
        if (self._epsilons or masked_records) and state.finished and state.round not in recorded.spent:
            self.ledger.append(record_accountant.spent(state.round, self.plan.settings, self._epsilons))
        if not self.plan.watch.keep_best:
            self.publish(state)
        if not self.plan.keep_updates:
            self.directory.clear_updates()
        if state.finished:
            self._tell(state.finished)

    def _recover(
        self, state: RunState, number: int, client: str, recorded: Recorded, stored: dict[str, Stored]
    ) -> None:
        """Add to `stored` the updates from an earlier part of the run; complete the ledger."""
        update = self.directory.load_update(number, client)
        if update is None:
            return
        try:
            steps = self._steps.get((number, client), 0)
            opened, stored[client] = self._aggregator.open(state, number, client, update, steps=steps)
        except PeerError:
            return
        if (number, client) not in recorded.received:
            self._log_update(opened, stored[client].norms, uplink_bytes=len(encode_reply(UpdateReply(update))))

    def _evaluate(self, state: RunState, roster: Roster, recorded: Recorded) -> RunState:
        if self.masked:
            return self._masked_evaluation(self.masked, state, roster, recorded)
        if self.channel.open_ended:
            self._gather(roster)
        losses: dict[str, ClientLoss] = {}
        own: dict[str, ClientLoss] = {}
        deadline = self._deadline()
        count = self.plan.eval_clients or len(roster.nodes)
        with self._dispatch(state, roster, Purpose.EVALUATE, state.round) as dispatch:
            for client in sample_cohort(list(roster.nodes), count, seed=self.plan.seed, round_number=0):
                dispatch.ask(client)
            while answer := dispatch.next_answer(deadline):
                reply = answer.reply
                if not isinstance(reply, Evaluation):
                    self._log_failure(state.round, answer)
                    if answer.given_up:
                        self._doubt(roster, answer)
                    continue
                try:
                    check_evaluation(reply, roster.cards[answer.client], state.round)
                except UpdateRefused as refused:
                    self._log_refusal(state.round, answer, refused.reason, str(refused))
                    continue
                self.ledger.note(
                    events.ReplyReceived(
                        round=state.round,
                        client=answer.client,
                        purpose=Purpose.EVALUATE.value,
                        uplink_bytes=answer.uplink_bytes,
                    )
                )
                state = note_held(state, answer.client, state.held_on(roster.tracks[answer.client]))
                losses[answer.client], own_loss = client_losses(reply)
                if own_loss is not None:
                    own[answer.client] = own_loss
        self._note_spans(state.round, roster)
        if losses:
            own_mean = mean_loss(own) if own else None
            evaluated = events.Evaluated(
                round=state.round,
                adapter=state.shadow.digest().hex(),
                **dict(mean_loss(losses)),
                own=own_mean,
                virtual_s=self._virtual_s,
            )
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
        self, state: RunState, roster: Roster, purpose: Purpose, number: int, *, attempt: bytes = b""
    ) -> Dispatch:
        def task(client: str, broadcast: bytes, base: bytes) -> Task:
            return self._task(purpose, broadcast, base, client, number)

        return Dispatch(
            channel=self.channel,
            roster=roster,
            state=state,
            broadcasts=Broadcasts(state, self.ranks, self.base_fingerprint),
            ledger=self.ledger,
            purpose=purpose,
            number=number,
            task=task,
            patience=self._patience,
            attempt=attempt,
        )

    def _task(self, purpose: Purpose, broadcast: bytes, base: bytes, client: str, number: int) -> Task:
        if purpose is Purpose.EVALUATE:
            return EvaluateTask(self._settings.to_evaluate(number), broadcast, base)
        steps = self._steps.get((number, client), 0)
        return TrainTask(self._settings.to_train(number, client, steps=steps), broadcast, base)

    def _receive(self, state: RunState, expected: Expected, track: int, update: bytes, answer: Answer) -> Stored | None:
        """Store an update if it is usable."""
        try:
            opened = open_update(update, expected)
            self._aggregator.check(opened, expected, track)
        except UpdateRefused as refused:
            self._log_refusal(expected.round, answer, refused.reason, str(refused))
            return None
        steps = self._steps.get((expected.round, expected.client), 0)
        stored = self._aggregator.stored(opened, state, track, steps=steps)
        self.directory.store_update(expected.round, expected.client, update)
        took_s = None if self.channel.clock.is_virtual else round(answer.took_s, 3)
        self._log_update(opened, stored.norms, uplink_bytes=answer.uplink_bytes, took_s=took_s)
        return stored

    def _log_update(self, opened: Opened, norms: Norms, *, uplink_bytes: int, took_s: float | None = None) -> None:
        metrics = opened.header.metrics
        # Proof that the client's key signed this update, for when the update itself is gone.
        received = events.UpdateReceived(
            round=opened.header.round,
            client=opened.header.client,
            uplink_bytes=uplink_bytes,
            payload_bytes=opened.encoding.payload_bytes,
            envelope_bytes=opened.encoding.envelope_bytes,
            codec=opened.encoding.codec,
            bits_per_parameter=opened.encoding.bits_per_parameter,
            distortion=metrics.get("distortion"),
            codec_s=round(metrics.get("codec_s", 0.0) + opened.encoding.codec_s, 4),
            examples=opened.header.examples,
            tokens=int(metrics.get("train_tokens", 0)),
            train_loss=metrics.get("train_loss"),
            first_loss=metrics.get("first_loss"),
            learning_rate=metrics.get("learning_rate"),
            shortened=metrics.get("shortened"),
            train_s=metrics.get("train_s"),
            took_s=took_s,
            digest=opened.delta.digest().hex(),
            norms={figure: norm for figure, norm in norms.items() if norm},
            signed=opened.signed.hex() if opened.signature else None,
            signature=opened.signature.hex() if opened.signature else None,
            epsilon=metrics.get(EPSILON),
        )
        if received.epsilon is not None:
            self._epsilons[received.client] = received.epsilon
        self.ledger.note(received)
        self._paces.take(received)

    def _expected(self, state: RunState, number: int, client: str, roster: Roster) -> Expected:
        return replace(
            self._aggregator.expected(state, number, client, roster.tracks[client]),
            examples=roster.cards[client].train_examples,
            public_key=roster.keys[client],
            epsilon=self._most_epsilon,
        )

    @property
    def _most_epsilon(self) -> float | None:
        settings = self.plan.settings
        return (settings.record_epsilon or math.inf) if settings.records_are_private else None

    def _log_failure(self, number: int, answer: Answer, *, reason: str = Reason.NO_ANSWER, stage: str = "") -> None:
        reply = answer.reply
        if isinstance(reply, Refusal):
            why, detail = reply.reason.name.lower().replace("_", "-"), reply.detail
        elif isinstance(reply, NoAnswer):
            why, detail = answer.given_up or reason, reply.detail
        else:
            why, detail = Reason.MALFORMED, f"{type(reply).__name__} is not an answer to this task"
        self._log_refusal(number, answer, why, detail, stage=stage)

    def _log_misfit(self, number: int, client: str, reason: Reason, detail: str) -> None:
        """Record a refusal of a stored update once: a round that was killed while folding is folded again."""
        if (number, client, reason.value) not in self._misfits:
            self._misfits.add((number, client, reason.value))
            self._log_refusal(number, Answer(client, NoAnswer(detail), 0), reason, detail)

    def _log_refusal(self, number: int, answer: Answer, reason: str, detail: str, *, stage: str = "") -> None:
        self.ledger.append(
            events.UpdateRefused(
                round=number,
                client=answer.client,
                reason=str(reason),
                detail=detail,
                uplink_bytes=answer.uplink_bytes,
                stage=stage,
            )
        )

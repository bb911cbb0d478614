"""The server's side of a run: register the clients, then gather, fold, checkpoint and evaluate in each round.

It sees a `Channel`, a run directory and a rule; what else a run is made of are the parts of its `Way`. A run that was
stopped at any point continues to the same result; first the ledger is completed from the files on disk. A guarded run
(`watch.Guard`) publishes an adapter only once it is evaluated. Knows no torch, no Flower and no model.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

from plait.errors import ConfigError, RunInterrupted
from plait.ledger import events
from plait.ledger.events import Event, UpdateReceived
from plait.ledger.ledger import Ledger, read_events
from plait.ledger.run_view import RunView
from plait.ledger.watch import EvaluationHistory, Guard, guard_after, standing_after
from plait.rounds.channel import Channel, StopRequest
from plait.rounds.cohort import CohortCollector, Collecting, Collector, ServerContext
from plait.rounds.fold import Aggregator, Folding, PlainFold
from plait.rounds.roster import RunRoster
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_plan import BudgetExhaustedError, PrivacyBudget, RunPlan, TaskSettings
from plait.rounds.run_state import RunState, Track, note_held, save_checkpoint
from plait.rounds.spool import AnswerLog, Arrival, Intake, Refused
from plait.wire.messages import ClientCard

if TYPE_CHECKING:
    from plait.trust.keys import Vouch


class CannotRecomputeError(ConfigError):
    """Something that recomputing a run's rounds needs is missing."""


@dataclass(frozen=True)
class Host:
    """The server of a way; if it `recomputes` finished rounds, nothing may be recorded."""

    directory: RunDirectory
    events: Sequence[Event]
    record: Callable[[Event], None]
    vouch: "Vouch | None" = None
    recomputes: bool = False


Arriving: TypeAlias = Callable[[RunState, UpdateReceived], Arrival]
"""How the next update to fold came, by the state before and its record, which is checked: `PeerError`."""


@dataclass(frozen=True)
class Way:
    """The parts of a run that are exchanged."""

    collecting: Collecting = CohortCollector
    folding: Folding = PlainFold
    costs: PrivacyBudget = field(default_factory=PrivacyBudget)
    least: int = 0
    arriving: Arriving | None = None  # None where all are folded in their own round


@dataclass(eq=False)
class EvaluationPolicy:
    """The evaluations of one run."""

    plan: RunPlan
    ledger: Ledger
    aggregator: Aggregator
    publish: Callable[[RunState], None]
    stop: StopRequest
    standing: EvaluationHistory = field(default_factory=EvaluationHistory)
    guard: Guard = field(default_factory=Guard)

    def __post_init__(self) -> None:
        self._ended = self._end_recorded = False
        self._taken_back = self._not_published = frozenset[int]()

    def recall(self, recorded: RunView, state: RunState) -> None:
        """Restore what an earlier process has recorded, and publish what it had to before the newest round."""
        self._ended = self._end_recorded = recorded.ended_early is not None
        self._taken_back, self._not_published = frozenset(recorded.taken_back), frozenset(recorded.not_published)
        before = [each for each in recorded.held_out if each.round != state.round]
        watch = self.plan.watch
        self.standing, self.guard = standing_after(before, watch.by), guard_after(watch.keep, before, watch.by)
        if self.plan.watch.guards and self.guard.kept and (kept := self.guard.kept.round) in state.versions:
            self.publish(state.at(kept))

    def record(self, evaluated: events.Evaluated, state: RunState) -> None:
        """Record an evaluation beside training, which decides only whether its adapter is published."""
        self.ledger.append(evaluated)
        self.standing = self.standing.after(evaluated)
        self._guard(state, evaluated)

    def is_over(self, number: int) -> bool:
        """Whether no round comes after this one."""
        return self._ended or number == self.plan.rounds

    def unmeasured(self, state: RunState) -> RunState:
        """Publish what a guarded run begins with: without losses there would be no adapter."""
        if not self.plan.watch.guards or state.round:
            return state
        self.publish(state)
        return replace(state, accepted_shadow=state.shadow)

    def follow_up(self, state: RunState, newest: events.Evaluated) -> RunState:
        """Do what an evaluation of this state leads to: publish it, take its step back, or end the run."""
        watch = self.plan.watch
        self.standing = standing = self.standing.after(newest)
        state = self._guard(state, newest)
        # Only here: what a run ends with has been evaluated.
        self._ended = self._ended or bool(self.stop.ending)
        if self.is_over(state.round):
            if state.round < self.plan.rounds and not self._end_recorded:
                self.ledger.append(events.EndedEarly(round=state.round, reason=self.stop.ending))
            return state
        if not watch.take_back:
            return state
        if not standing.worse:
            return replace(state, accepted=state.adapter)
        return self._take_back(state)

    def _guard(self, state: RunState, newest: events.Evaluated) -> RunState:
        if not self.plan.watch.guards:
            return state
        self.guard = guard = self.guard.after(newest)
        if guard.publishes(newest):
            self.publish(state)
            return replace(state, accepted_shadow=state.shadow)
        if state.round not in self._not_published:
            self.ledger.append(guard.refusal(newest))
        return state

    def _take_back(self, state: RunState) -> RunState:
        state, fields = self.aggregator.take_back(state)
        if state.round not in self._taken_back:
            now = self.standing
            about = {"round": state.round, "worse": now.worse, "accepted": now.accepted, "scale": now.scale}
            about |= {"by": now.by} if now.by else {}
            self.ledger.append(events.StepTakenBack.model_validate({**about, **fields}))
        return state


@dataclass(eq=False, kw_only=True)
class Coordinator:
    """Runs the remaining rounds."""

    channel: Channel
    directory: RunDirectory
    ledger: Ledger
    plan: RunPlan
    make_aggregator: Callable[[Refused], Aggregator]
    publish: Callable[[RunState], None]
    stop: StopRequest = field(default_factory=StopRequest)
    way: Way = field(default_factory=Way)

    def __post_init__(self) -> None:
        plan = self.plan
        self._log = log = AnswerLog(self.channel, self.ledger)
        self._aggregator = self.make_aggregator(log.misfit)
        spool, self._ranks = self._aggregator.spool, self._aggregator.spool.ranks
        self._intake = Intake(spool, log)
        self._settings = TaskSettings(plan, spool.rule, new_factors=spool.new_factors)
        self._reached = 0
        self._following = EvaluationPolicy(plan, self.ledger, self._aggregator, self.publish, self.stop)

    def run(self, state: RunState) -> RunState:
        """Finish the run.

        Raises:
            PeerError: fewer clients than planned, or than the quorum if all are present from the start; or a round
                with fewer usable updates than the quorum.
            RunInterrupted: the user asked to stop.
        """
        recorded = RunView.after(read_events(self.directory.ledger))
        self._log.recall(recorded)
        following, self._reached = self._following, state.round
        try:
            if recorded.done < state.round:
                self.commit_round(state, is_saved=True)
            self._intake.steps.update(recorded.asked)
            if self.plan.speeds:
                self._log.paces = self.plan.speeds(read_events(self.directory.ledger), self.plan.settings.local_steps)
            following.recall(recorded, state)
            newest = next((each for each in recorded.held_out if each.round == state.round), None)
            if newest and following.is_over(state.round) and not self._is_unjudged(recorded, recorded.clients.values()):
                return following.follow_up(state, newest)
            if reason := self._ending(state.round):
                return self._end(state, recorded, reason)
            with RunRoster(
                self.channel,
                self.ledger,
                self._settings.to_describe(),
                self._ranks,
                self._aggregator.spool.base_fingerprint,
                patience=self.plan.gathering_patience,
            ) as roster:
                server = self._server(roster, recorded)
                with self.way.collecting(server) as collector:
                    state = self._begin(state, server)
                    if newest:
                        state = following.follow_up(state, newest)
                    elif self._evaluation_due(state.round):
                        state = self._evaluate(state, collector)
                    state = self._rounds(state, collector, recorded)
                    if self._is_unjudged(recorded, (each.card for each in roster.clients.values())):
                        self._judge(state, collector)
                    return state
        except (RunInterrupted, KeyboardInterrupt):
            self.ledger.append(events.Interrupted(round=self._reached))
            raise

    def _rounds(self, state: RunState, collector: Collector, recorded: RunView) -> RunState:
        while not self._following.is_over(state.round):
            if reason := self._ending(state.round):
                return self._end(state, recorded, reason)
            try:
                state = collector.next(state)
                self._reached = state.round
            except BudgetExhaustedError as error:
                return self._end(state, recorded, str(error))
            if self._evaluation_due(state.round):
                state = self._evaluate(state, collector)
        return state

    def _ending(self, number: int) -> str:
        costs = self.way.costs
        if not costs.withholds or number == self.plan.rounds:
            return ""
        return costs.ending(number + 1) or self.stop.ending

    def _end(self, state: RunState, recorded: RunView, reason: str) -> RunState:
        if not recorded.ended_early:
            self.ledger.append(events.EndedEarly(round=state.round, reason=reason))
        return state

    def _is_unjudged(self, recorded: RunView, clients: Iterable[events.DescribedClient | ClientCard]) -> bool:
        """Whether the final figure is missing though one of these clients has a judge part."""
        settings = self.plan.settings
        has_parts = settings.counts_stay or any(each.judge_examples for each in clients)
        return settings.judge_part > 0 and recorded.judged is None and has_parts

    def _judge(self, state: RunState, collector: Collector) -> None:
        """Record the final figure of the published adapter; a run that was killed before does it when it goes on."""
        published = self._published(state)
        if published and (evaluated := collector.judge(published)):
            self.ledger.append(events.Judged.model_validate(dict(evaluated)))
            self.publish(published)  # its card has the figure

    def _published(self, state: RunState) -> RunState | None:
        """The state that leads clients to the published adapter; None if that is the base, or is not here."""
        kept, shadow = self._following.guard.kept, state.accepted_shadow
        if not self.plan.watch.guards:
            return state if state.round else None
        if kept is None or not kept.round:
            return None
        if kept.round in {state.round, *state.versions}:
            return state.at(kept.round)
        if shadow is None or shadow.digest().hex() != kept.adapter:
            return None
        tracks = tuple(Track(self._ranks.resized(shadow, track)) for track in range(len(state.tracks)))
        return replace(state, round=kept.round, tracks=tracks)

    def _server(self, roster: RunRoster, recorded: RunView) -> ServerContext:
        return ServerContext(
            channel=self.channel,
            ledger=self.ledger,
            plan=self.plan,
            settings=self._settings,
            log=self._log,
            spool=self._aggregator.spool,
            aggregator=self._aggregator,
            intake=self._intake,
            costs=self.way.costs,
            stop=self.stop,
            roster=roster,
            recorded=recorded,
            commit_round=self.commit_round,
            evaluated=self._following.record,
            standing=lambda: self._following.standing if self.plan.watch.take_back else None,
            least=max(self.plan.quorum, self.way.least),
        )

    def _begin(self, state: RunState, server: ServerContext) -> RunState:
        recorded, roster = server.recorded, server.roster
        server.gather(begun=recorded.begun)
        if state.round == 0:
            # Every described client derived the initial adapter from the spec's seed: if the run starts from it,
            # nothing need be sent.
            held = [adapter.initial.digest() for adapter in self._ranks.adapters]
            return replace(state, held={client: held[each.track] for client, each in roster.clients.items()})
        is_evaluated = any(each.round == state.round for each in recorded.held_out)
        if self.channel.open_ended or (self.channel.clock.is_virtual and is_evaluated):
            # Clients that evaluated the last round hold its adapter, which the earlier checkpoint does not record. With
            # this their task has the same bytes as before, and work in progress need not be restarted.
            evaluated = {
                client: state.held_on(each.track)
                for client, each in roster.clients.items()
                if (state.round, client) in recorded.evaluated_by
            }
            state = note_held(state, evaluated)
        return state

    def _evaluation_due(self, round_number: int) -> bool:
        if self.way.costs.withholds:
            # The losses of clients' data are theirs.
            return False
        return bool(self.stop.ending) or self.plan.is_evaluated(round_number)

    def _evaluate(self, state: RunState, collector: Collector) -> RunState:
        state, evaluated = collector.evaluate(state)
        if evaluated is None:
            return self._following.unmeasured(state)
        self.ledger.append(evaluated)
        return self._following.follow_up(state, evaluated)

    def commit_round(self, state: RunState, *, is_saved: bool = False) -> None:
        """End a round: its checkpoint, what it cost, its adapter, the end of its spool, its events.

        Killed before the checkpoint is whole, its updates are folded again from the spool, to the same bits. Killed at
        any line after, the run finds a checkpoint that is ahead of the ledger and does the rest again (`is_saved`).
        Killed after the last line, nothing of it is done again.
        """
        if not is_saved:
            save_checkpoint(self.directory.checkpoints, state)
        if spent := self.way.costs.spent(state, self._log.epsilons):
            # Before the adapter is published, whose card states what it cost.
            self.ledger.append(spent)
        if not self.plan.watch.guards:
            self.publish(state)
        if not self.plan.keep_updates:
            self.directory.clear_updates()
        if state.finished:
            self._log.record(state.finished)

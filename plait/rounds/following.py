"""What follows from a run's evaluations: the adapter is published, a step is taken back, or the run ends.

A guarded run (`watch.Guard`) publishes an adapter only here, once it is evaluated; what is published stays in its place
until a later one may replace it. A run that is killed before its next checkpoint does the same again from its ledger,
and tells of it once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from plait.rounds import events
from plait.rounds.channel import StopRequest
from plait.rounds.fold import Aggregator
from plait.rounds.ledger import Ledger
from plait.rounds.recorded import Recorded
from plait.rounds.run_plan import RunPlan
from plait.rounds.run_state import RunState
from plait.rounds.watch import Guard, Standing, guard_after, standing_after


@dataclass(eq=False)
class Following:
    """The evaluations of one run.

    Attributes:
        publish: publishes the adapter of a state.
        standing: what follows from the evaluations so far.
        guard: which of the evaluated adapters is published.
    """

    plan: RunPlan
    ledger: Ledger
    aggregator: Aggregator
    publish: Callable[[RunState], None]
    stop: StopRequest
    standing: Standing = field(default_factory=Standing)
    guard: Guard = field(default_factory=Guard)

    def __post_init__(self) -> None:
        self._ended = self._told_end = False
        self._taken_back = self._not_published = frozenset[int]()

    def recall(self, recorded: Recorded, state: RunState) -> None:
        """Take what an earlier part of the run has recorded, so that it is not told again, and publish what it had to.

        Of a round that is evaluated before the next begins, `follow_up` does the latter.
        """
        self._ended = self._told_end = recorded.ended_early
        self._taken_back, self._not_published = recorded.taken_back, recorded.not_published
        before = [each for each in recorded.held_out if each.round != state.round]
        self.standing, self.guard = standing_after(before), guard_after(self.plan.watch.keep, before)
        if self.plan.watch.guards and self.guard.kept and (kept := self.guard.kept.round) in state.versions:
            self.publish(state.at(kept))

    def record(self, evaluated: events.Evaluated, state: RunState) -> None:
        """Record an evaluation beside training, from which only follows whether its adapter is published."""
        self.ledger.append(evaluated)
        self.standing = self.standing.after(evaluated)
        self._guard(state, evaluated)

    def is_over(self, number: int) -> bool:
        """Whether no round comes after this one."""
        return self._ended or number == self.plan.rounds

    def unmeasured(self, state: RunState) -> RunState:
        """Publish what a guarded run begins with, of which there are no losses, so that there is an adapter."""
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
            if state.round < self.plan.rounds and not self._told_end:
                self.ledger.append(events.EndedEarly(round=state.round, reason=self.stop.ending))
            return state
        if not watch.take_back:
            return state
        if not standing.worse:
            return replace(state, accepted=state.adapter)
        return self._take_back(state)

    def _guard(self, state: RunState, newest: events.Evaluated) -> RunState:
        """Publish the adapter of this state if its evaluation allows it, or say why not."""
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
            standing = self.standing
            told = {"round": state.round, "worse": standing.worse, "accepted": standing.accepted}
            self.ledger.append(events.StepTakenBack.model_validate({**told, "scale": standing.scale, **fields}))
        return state

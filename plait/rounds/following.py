"""What follows from a run's evaluations: the adapter is published, a step is taken back, or the run ends.

A run that is killed before its next checkpoint does the same again from its ledger, and tells of it once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from plait.rounds import events
from plait.rounds.channel import StopRequest
from plait.rounds.fold import Aggregator, TakesBack
from plait.rounds.ledger import Ledger
from plait.rounds.recorded import Recorded
from plait.rounds.run_plan import RunPlan
from plait.rounds.run_state import RunState
from plait.rounds.watch import Standing


@dataclass(eq=False)
class Following:
    """The evaluations of one run.

    Attributes:
        publish: publishes the adapter of a state.
        standing: what follows from the evaluations so far.
    """

    plan: RunPlan
    ledger: Ledger
    aggregator: Aggregator
    publish: Callable[[RunState], None]
    stop: StopRequest
    standing: Standing = field(default_factory=Standing)

    def __post_init__(self) -> None:
        self._ended = self._told_end = False
        self._taken_back: frozenset[int] = frozenset()

    def recall(self, recorded: Recorded) -> None:
        """Take what an earlier part of the run has recorded, so that it is not told again."""
        self._ended = self._told_end = recorded.ended_early
        self._taken_back = recorded.taken_back

    def record(self, evaluated: events.Evaluated) -> None:
        """Record an evaluation that nothing but the standing follows from."""
        self.ledger.append(evaluated)
        self.standing = self.standing.after(evaluated)

    def is_over(self, number: int) -> bool:
        """Whether no round comes after this one."""
        return self._ended or number == self.plan.rounds

    def follow_up(self, state: RunState, newest: events.Evaluated) -> RunState:
        """Do what an evaluation of this state leads to: publish it, take its step back, or end the run."""
        watch = self.plan.watch
        self.standing = standing = self.standing.after(newest)
        if watch.keep_best and standing.best is newest:
            self.publish(state)
        # Only here: what a run ends with has been evaluated.
        self._ended = self._ended or bool(self.stop.ending)
        if self.is_over(state.round):
            if state.round < self.plan.rounds and not self._told_end:
                self.ledger.append(events.EndedEarly(round=state.round, reason=self.stop.ending))
            if standing.worse and watch.take_back and not watch.keep_best:
                self._publish_accepted(state)
            return state
        if not watch.take_back:
            return state
        if not standing.worse:
            return state.accept()
        return self._take_back(state)

    def _publish_accepted(self, state: RunState) -> None:
        """Publish the adapter of the last evaluation that was not worse, in place of the one that the run ends with."""
        accepted, standing = state.accepted_shadow, self.standing
        if accepted is None:
            return
        if state.round not in self._taken_back:
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

    def _take_back(self, state: RunState) -> RunState:
        state, fields = self.aggregator.take_back(state)
        if state.round not in self._taken_back:
            standing = self.standing
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
        if not self.plan.watch.keep_best:
            self.publish(state)
        return state

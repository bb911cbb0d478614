"""The settings of a run's round loop, those of every task by round and client, and what rounds cost.

The server writes its tasks from them; a client derives the same and refuses a task that differs.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from plait.aggregation import Rule
from plait.compress.downlink import Downlink, gap_of
from plait.errors import PeerError
from plait.ledger.events import Event
from plait.ledger.watch import Watch
from plait.rounds.channel import Patience
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_state import RunState, client_seed, sample_cohort
from plait.rounds.spool import Weighting
from plait.rounds.validate import NormBound
from plait.settings.pace import MOST_TIMES
from plait.wire.settings import Settings

if TYPE_CHECKING:
    from plait.rounds.metrics import RunMetrics
    from plait.rounds.paces import BySpeed, ClientSpeeds


class BudgetExhaustedError(PeerError):
    """A round would cost more than is left; the run ends with the adapter that it has."""


class PrivacyBudget:
    """What rounds cost, and what that asks of the run: nothing, unless data are private.

    Attributes:
        withholds: whether clients keep their losses to themselves, so that nothing is evaluated.
        keeps_cohort: whether no client's update may decide whether another's counts, so that none is replaced.
    """

    withholds = keeps_cohort = False

    def ending(self, number: int) -> str:
        """Why round `number` may not begin; empty if it may."""
        del number
        return ""

    def spent(self, state: RunState, epsilons: Mapping[str, float]) -> Event | None:
        """The event of the costs once a round is over; None for nothing."""
        del state, epsilons
        return None


class MessageBits(NamedTuple):
    """Bits for each parameter of an adapter."""

    up: float
    more_down: float = 0.0


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """A run that begins, or goes on."""

    directory: RunDirectory
    events: Sequence[Event] = ()  # of its ledger; empty for a new run
    settings: Settings
    size: int
    base_parameters: int = 0
    continues: bool = False  # whether it starts from other runs' adapters


@dataclass(frozen=True)
class TaskSettings:
    """The settings of a run's tasks."""

    plan: "RunPlan"
    rule: Rule
    new_factors: bool

    def to_describe(self) -> Settings:
        """The settings under which a client counts its data."""
        return self._of_run

    @cached_property
    def _of_run(self) -> Settings:
        return replace(self.plan.settings, personal=self.rule.personal or "", without_feedback=self.new_factors)

    def to_train(self, number: int, client: str, *, steps: int = 0) -> Settings:
        """How a client trains in round `number`, for this many steps; 0 for as many as all."""
        return self._of_run.for_task(
            round=number,
            seed=client_seed(self.plan.seed, 0 if self._of_run.round_epochs else number, client),
            done_steps=(number - 1) * self.plan.settings.local_steps,
            trained="".join(sorted(self.rule.trained(number))),
            steps=steps,
        )

    def to_evaluate(self, number: int, *, judging: bool = False) -> Settings:
        """How a client evaluates the adapter after round `number`, perhaps on its judge part."""
        done_steps = number * self.plan.settings.local_steps
        return self._of_run.for_task(round=number, done_steps=done_steps, judging=judging)


@dataclass(frozen=True)
class RunPlan:
    """The settings of the round loop; those that are the same in all tasks for clients are in `settings`.

    Attributes:
        deadline_s: seconds that a round waits for updates (and an evaluation for losses); None for no limit.
        attempts: attempts at a round that falls below its quorum.
        folds: updates that a round folds; 0 for as many as its cohort.
        speeds: of clients, by events and the steps of one without a number of its own, where their steps or the times
            when their answers are due follow from them.
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
    attempts: int = 1
    norm_bound: NormBound = field(default_factory=NormBound)
    weighting: Weighting = Weighting.EXAMPLES
    keep_updates: bool = False
    stepping: "BySpeed | None" = None
    patience: Patience = field(default_factory=Patience)
    watch: Watch = field(default_factory=Watch)
    metrics: "RunMetrics | None" = None
    folds: int = 0
    speeds: "Callable[[Iterable[Event], int], ClientSpeeds] | None" = None
    starts_anew: bool = True

    @property
    def downlink(self) -> Downlink:
        """How clients get to each round's shadow."""
        gap = gap_of(self.clients, self.folds or self.cohort_size)
        return Downlink(gap, self.rounds, self.clients, starts_anew=self.starts_anew)

    @property
    def gathering_patience(self) -> Patience:
        """With which missing clients are waited for between two rounds: no longer than a round may last."""
        if self.deadline_s is None:
            return self.patience
        return replace(self.patience, gathering_s=min(self.deadline_s, self.patience.gathering_s))

    @property
    def most_steps(self) -> int:
        """Steps of a client in a round, where each has its own number; 0 if all take as many."""
        return MOST_TIMES * self.settings.local_steps if self.stepping else 0

    def is_evaluated(self, number: int) -> bool:
        """Whether the adapter after round `number` is evaluated."""
        return number == self.rounds or number % self.eval_every == 0

    def evaluators(self, clients: Sequence[str]) -> tuple[str, ...]:
        """Those of the clients that evaluate."""
        return sample_cohort(clients, self.eval_clients or len(clients), seed=self.seed, round_number=0)

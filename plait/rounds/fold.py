"""From the stored updates of a round to the next state: the fold's outcome, the server's step, the broadcast.

Updates are folded one by one, in client order, so memory does not grow with the cohort, and the result does not depend
on who answered first. Knows no channel.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np

from plait.adapters import AdapterState, Layout, norm
from plait.aggregation import Contribution, Observer, Outcome, RoundContext, Rule, ServerOptimizer
from plait.aggregation.diagnostics import of_modules
from plait.aggregation.means import Mean
from plait.aggregation.server_step import slope_of
from plait.aggregation.sums import OrderFreeSum
from plait.errors import MachineError, PeerError
from plait.ledger.events import Reason, RoundFinished
from plait.ledger.watch import EvaluationHistory
from plait.rounds.broadcasts import follow
from plait.rounds.run_state import RunState, advance
from plait.rounds.spool import Spool, Stored, Weighting
from plait.rounds.validate import NormPolicy, beyond, remembered
from plait.system.text import Json
from plait.wire.encoding import Encoding

if TYPE_CHECKING:
    from plait.aggregation.bottleneck_diagnostics import BottleneckObserver


# Modules whose products are looked at each round, spread over the adapter: enough to tell, at a small part of the cost.
_MODULES_OBSERVED = 8
_OBSERVED = 1000  # modules of all clients together


def _modules_of(clients: int) -> int:
    # It must not take longer than everything else of a round with many clients.
    return max(1, min(_MODULES_OBSERVED, _OBSERVED // max(1, clients)))


@dataclass(frozen=True)
class Folded:
    """What a fold gives."""

    outcome: Outcome
    clients: Sequence[str]
    fields: Mapping[str, object] = field(default_factory=dict[str, object])
    keep: Callable[[RunState], RunState] = lambda state: state  # adds what later folds need


class Fold(Protocol):
    """How the updates of a round are folded."""

    def is_settled(self, state: RunState, number: int, accepted: tuple[str, ...]) -> bool:
        """Whether exactly these clients' updates must be folded, because the ledger already records it."""
        del state, number, accepted
        return False

    def arrived(self, number: int, contribution: Contribution, *, clients: int) -> None:
        """An update of a round of so many clients is stored; may save decoding it again."""

    def fold(self, state: RunState, context: RoundContext, stored: Mapping[str, Stored]) -> Folded:
        """Fold the updates of a round."""
        ...


Folding: TypeAlias = Callable[[Spool], Fold]
"""Makes the fold of a run over its spool."""


class _Arrived:
    """The sum of a round's updates as they arrive, and of each what the round's observer looks at."""

    def __init__(self, number: int, modules: int, layout: Layout) -> None:
        self._layout, self._sum = layout, OrderFreeSum(layout.size)
        self.number, self._modules = number, modules
        self._observed: list[tuple[Contribution, float]] = []

    def add(self, contribution: Contribution) -> None:
        self._sum.add(contribution.delta.flat)
        observed = of_modules(contribution, self._modules)
        if self._observed:
            observed = replace(observed, received=self._observed[0][0].received)
        self._observed.append((observed, norm(contribution.delta)))

    def in_order(self, number: int, modules: int, clients: Sequence[str]) -> Sequence[tuple[Contribution, float]]:
        """What was observed, in client order; nothing unless the sum is, bit for bit, the one of these clients."""
        observed = sorted(self._observed, key=lambda each: each[0].client)
        is_theirs = [each.client for each, _ in observed] == list(clients) and self.number == number
        return observed if is_theirs and modules == self._modules and self._sum.is_exact else ()

    def finish(self) -> Outcome:
        """That of the mean rule."""
        return Outcome(AdapterState(self._layout, self._sum.mean().astype(np.float32)))


class PlainFold(Fold):
    """Each update goes to the rule as its client sent it.

    Where that is a plain sum, it is taken as updates arrive, so that they need not be decoded again. If other ones
    count in the end, or the order may have mattered, they are folded from the spool.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool, rule = spool, spool.rule
        is_plain = rule.algorithm is Mean and rule.personal is None and spool.plan.weighting is Weighting.EQUAL
        is_whole = not spool.plan.stepping and spool.plan.norm_bound.policy is not NormPolicy.CLIP
        one_kind = len(spool.ranks.adapters) == 1 and not spool.ranks.master.spec.is_bottleneck
        self._adds_early = is_plain and is_whole and one_kind
        self._arrived: _Arrived | None = None

    def arrived(self, number: int, contribution: Contribution, *, clients: int) -> None:
        """Add the update."""
        if not self._adds_early:
            return
        if self._arrived is None or self._arrived.number != number:
            self._arrived = _Arrived(number, _modules_of(clients), contribution.delta.layout)
        self._arrived.add(contribution)

    def fold(self, state: RunState, context: RoundContext, stored: Mapping[str, Stored]) -> Folded:
        """The rule's outcome on the updates that count, and how far their products are from their mean's."""
        spool = self._spool
        check = spool.counting(state, context.round, stored)
        weight_of, capped = spool.weights(check.accepted, stored)
        steps = {client: stored[client].steps for client in check.accepted}
        factors = spool.plan.stepping.factors(steps, weight_of) if spool.plan.stepping and all(steps.values()) else {}
        arrived, self._arrived = self._arrived, None
        modules = _modules_of(len(check.accepted))
        early = arrived.in_order(context.round, modules, check.accepted) if arrived else ()
        accumulator = arrived if arrived and early else spool.rule.begin(context)
        observer = self._observer(context, modules)
        folded: list[str] = []
        slopes: list[tuple[float, float]] = []
        contributions = spool.contributions(state, context.round, check, weight_of, stored, factors)
        for contribution, size in early or ((each, None) for each in contributions):
            try:
                if not early:
                    accumulator.add(contribution)
            except PeerError as error:
                spool.refused(context.round, contribution.client, Reason.RULE, str(error))
                continue
            folded.append(contribution.client)
            slopes.append((contribution.slope, contribution.weight))
            if observer:
                observer.add(contribution, size=size)
        if not folded:
            raise PeerError(f"none of the updates of round {context.round} counts for rule '{spool.rule.name}'")
        outcome = replace(accumulator.finish(), slope=slope_of(slopes))
        seen = observer.finish(outcome) if observer else None
        clipped = tuple(name for name in folded if beyond(stored[name].norms, check.limits))
        fields = {
            "clipped": clipped if spool.plan.norm_bound.policy is NormPolicy.CLIP else None,
            "weight_capped": tuple(client for client in folded if client in capped) or None,
            "diagnostics": seen,
        }
        sizes = [stored[client].norms for client in folded]

        def keep(before: RunState) -> RunState:
            return replace(before, norms=remembered(before.norms, sizes, check.limits))

        return Folded(outcome, folded, fields, keep)

    def _observer(self, context: RoundContext, modules: int) -> "Observer | BottleneckObserver | None":
        spec = self._spool.ranks.master.spec
        if spec.is_bottleneck:
            from plait.aggregation.bottleneck_diagnostics import BottleneckObserver

            return BottleneckObserver(context, spec, modules=modules)
        return Observer(context, modules=modules) if context.geometry.pairs else None


def outcome_of_mean(rule: Rule, context: RoundContext, mean: AdapterState, name: str) -> Outcome:
    """The outcome of a linear rule on the mean of all updates; `name` stands in a client's place in messages."""
    accumulator = rule.begin(context)
    accumulator.add(Contribution(name, context.master, mean, 1.0, context.geometry))
    return accumulator.finish()


@dataclass(eq=False)
class Aggregator:
    """Fold, server optimizer and codec of one run, over its spool."""

    spool: Spool
    fold: Fold
    optimizer: ServerOptimizer

    def step(
        self, state: RunState, stored: Mapping[str, Stored], *, standing: EvaluationHistory | None = None
    ) -> tuple[RunState, RoundFinished]:
        """What rule and server optimizer make of the stored updates of the next round.

        Returns:
            (the state after the round, its event; the caller knows how many updates it lacked, and its time).
        """
        number, master, plan = state.round + 1, self.spool.ranks.master, self.spool.plan
        context = RoundContext(
            round=number,
            master=state.shadow,
            geometry=master.geometry,
            initial=master.initial,
            seed=plan.seed,
            cohort=self.spool.ranks.cohort,
            memory=state.rule_memory,
        )
        folded = self.fold.fold(state, context, stored)
        outcome = folded.outcome
        if standing and standing.follows_steps_back(number):
            # Clients measured along a direction that the server's step did not take.
            outcome = replace(outcome, slope=None)
        step, optimizer_memory = self.optimizer.adjust(outcome, state.optimizer_memory, context)
        scale = standing.scale if standing else 1.0
        if scale != 1 and not self.spool.new_factors:
            step = AdapterState(step.layout, step.flat * np.float32(scale))
        state = advance(folded.keep(state), step)
        state = replace(state, rule_memory=outcome.memory, optimizer_memory=optimizer_memory)
        # Of a masked sum nothing is stored for a client.
        took_part = max(len(stored), len(folded.clients))
        state, encoding = self._follow(state, missed=max(0, plan.clients - took_part))
        finished = RoundFinished(
            round=number,
            rule=self.spool.rule.name,
            received=len(folded.clients),
            update_norm=norm(step),
            figures=outcome.figures or None,
            adapter=state.shadow.digest().hex(),
            broadcast_distortion=encoding.distortion,
            broadcast_codec_s=round(encoding.codec_s, 4),
        )
        return state, finished.model_copy(update=dict(folded.fields))

    def take_back(self, state: RunState) -> tuple[RunState, dict[str, Json]]:
        """The state once the steps since the last accepted evaluation are taken back by half.

        All of them where factors are other ones in every round: a mean of two pairs of them is neither. Clients hold
        the adapter that is taken back, so the next broadcast leads from it.
        """
        if state.accepted is None:
            raise MachineError("no earlier adapter is kept to go back to")
        wanted, takes_all = state.accepted, self.spool.new_factors
        if not takes_all:
            wanted = AdapterState(wanted.layout, (wanted.flat + state.adapter.flat) * np.float32(0.5))
        state, encoding = self._follow(replace(state, adapter=wanted), missed=0)
        return state, {
            "adapter": state.shadow.digest().hex(),
            "taken_back": "all" if takes_all else "half",
            "broadcast_distortion": encoding.distortion,
        }

    def _follow(self, state: RunState, *, missed: int) -> tuple[RunState, Encoding]:
        return follow(
            state,
            self.spool.ranks,
            self.spool.base_fingerprint,
            codec=self.spool.plan.settings.codec,
            new_factors=self.spool.new_factors,
            downlink=self.spool.plan.downlink,
            missed=missed,
        )

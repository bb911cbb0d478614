"""How the stored updates of a round become what the rule makes of them: one by one, in client order.

So memory does not grow with the cohort, and the result does not depend on who answered first. `PlainFold` gives each
update to the rule as its client sent it. A feature that adds updates up otherwise has a fold of its own, which the
aggregator takes in its place. Knows no channel, no optimizer and no broadcast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, TypeAlias

from plait.adapters import AdapterState
from plait.adapters.bottleneck import is_bottleneck
from plait.aggregation import Contribution, Observer, Outcome, RoundContext, Rule
from plait.aggregation.server_step import slope_of
from plait.errors import PeerError
from plait.rounds import events
from plait.rounds.norm_bound import NormPolicy, beyond, remembered
from plait.rounds.reason import Reason
from plait.rounds.run_state import RunState
from plait.rounds.spool import NormCheck, Spool, Stored

if TYPE_CHECKING:
    from plait.aggregation.diagnostics import BottleneckObserver

# Modules whose products are looked at each round, spread over the adapter: enough to tell, at a small part of the cost.
_MODULES_OBSERVED = 8
_OBSERVED = 1000  # modules of all clients together


def _unchanged(state: RunState) -> RunState:
    return state


@dataclass(frozen=True)
class Folded:
    """What a fold gives.

    Attributes:
        clients: whose updates are in it.
        told: further fields of the round's event.
        keep: puts what later folds need into the state of before the round.
        besides: what a feature's fold records before the round's own event.
    """

    outcome: Outcome
    clients: Sequence[str]
    told: Mapping[str, object] = field(default_factory=dict[str, object])
    keep: Callable[[RunState], RunState] = _unchanged
    besides: tuple[events.Event, ...] = ()


class Fold(Protocol):
    """How the updates of a round are folded."""

    def is_settled(self, state: RunState, number: int, accepted: tuple[str, ...]) -> bool:
        """Whether exactly these clients' updates must be folded, because the ledger already says so."""
        ...

    def fold(self, state: RunState, context: RoundContext, stored: Mapping[str, Stored]) -> Folded:
        """Fold the updates of a round.

        Raises:
            MachineError: a stored update is gone.
            PeerError: none of them counts.
        """
        ...


Folding: TypeAlias = Callable[[Spool], Fold]
"""Makes the fold of a run over its spool."""


class PlainFold:
    """Each update goes to the rule as its client sent it."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    def is_settled(self, state: RunState, number: int, accepted: tuple[str, ...]) -> bool:
        """Other updates may still join them."""
        del state, number, accepted
        return False

    def fold(self, state: RunState, context: RoundContext, stored: Mapping[str, Stored]) -> Folded:
        """The rule's outcome on the updates that count, and how far their products are from their mean's."""
        spool = self._spool
        check = spool.counting(state, context.round, stored)
        weight_of, capped = spool.weights(check.accepted, stored)
        steps = {client: stored[client].steps for client in check.accepted}
        factors = spool.stepping.factors(steps, weight_of) if spool.stepping and all(steps.values()) else {}
        accumulator = spool.rule.begin(context)
        observer = self._observer(context, len(check.accepted))
        folded: list[str] = []
        slopes: list[tuple[float, float]] = []
        for contribution in spool.contributions(state, context.round, check, weight_of, stored, factors):
            try:
                accumulator.add(contribution)
            except PeerError as error:
                spool.refused(context.round, contribution.client, Reason.RULE, str(error))
                continue
            folded.append(contribution.client)
            slopes.append((contribution.slope, contribution.weight))
            if observer:
                observer.add(contribution)
        if not folded:
            raise PeerError(f"none of the updates of round {context.round} counts for rule '{spool.rule.name}'")
        outcome = replace(accumulator.finish(), slope=slope_of(slopes))
        seen = events.Diagnostics(**asdict(observer.finish(outcome))) if observer else None
        told = {
            "clipped": self._clipped(folded, stored, check),
            "weight_capped": tuple(client for client in folded if client in capped) or None,
            "diagnostics": seen,
        }
        sizes = [stored[client].norms for client in folded]

        def keep(before: RunState) -> RunState:
            return replace(before, norms=remembered(before.norms, sizes, check.limits))

        return Folded(outcome, folded, told, keep)

    def _clipped(self, folded: Sequence[str], stored: Mapping[str, Stored], check: NormCheck) -> tuple[str, ...] | None:
        if self._spool.norm_bound.policy is not NormPolicy.CLIP:
            return None
        return tuple(name for name in folded if beyond(stored[name].norms, check.limits))

    def _observer(self, context: RoundContext, clients: int) -> Observer | BottleneckObserver | None:
        spec = self._spool.ranks.master.spec
        # It must not take longer than everything else of a round with many clients.
        modules = max(1, min(_MODULES_OBSERVED, _OBSERVED // clients))
        if is_bottleneck(spec):
            from plait.aggregation.diagnostics import BottleneckObserver

            return BottleneckObserver(context, spec, modules=modules)
        return Observer(context, modules=modules) if context.geometry.pairs else None


def outcome_of_mean(rule: Rule, context: RoundContext, mean: AdapterState, name: str) -> Outcome:
    """The outcome of a linear rule, which is the same for the mean of all updates as for all of them.

    Args:
        name: what stands in a client's place, in messages.
    """
    accumulator = rule.begin(context)
    accumulator.add(Contribution(name, context.master, mean, 1.0, context.geometry))
    return accumulator.finish()

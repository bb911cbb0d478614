"""The fold of the smallest updates, and what it records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from plait.aggregation import RoundContext
from plait.config import RunConfig
from plait.rounds.events import Count, Event
from plait.rounds.fold import Fold, Folded
from plait.rounds.run_plan import RunPlan
from plait.rounds.run_state import RunState
from plait.rounds.spool import Stored
from plait.rounds.way import Way
from plait.wire.envelope import Opened


class LeftOutAsLarge(Event):
    """The `clients` whose updates of `round` were too large to be kept."""

    event = "left_out_as_large"
    round: Count
    clients: tuple[str, ...]


@dataclass(frozen=True)
class SmallestFold:
    """Folds `kept` updates of each round as `inner` would if there were no others."""

    inner: Fold
    kept: int

    def check(self, opened: Opened, number: int) -> None:
        """As the inner one."""
        self.inner.check(opened, number)

    def is_settled(self, state: RunState, number: int, accepted: tuple[str, ...]) -> bool:
        """As the inner one."""
        return self.inner.is_settled(state, number, accepted)

    def fold(self, state: RunState, context: RoundContext, stored: Mapping[str, Stored]) -> Folded:
        """What the inner one makes of the smallest."""
        by_size = sorted(stored, key=lambda client: (sorted(stored[client].norms.items()), client))
        folded = self.inner.fold(state, context, {client: stored[client] for client in by_size[: self.kept]})
        event = LeftOutAsLarge(round=context.round, clients=tuple(by_size[self.kept :]))
        return replace(folded, besides=(*folded.besides, event))


def with_smallest(way: Way, config: RunConfig, _plan: RunPlan) -> Way:
    """The way of a run whose rounds keep the smallest updates."""
    kept: int = vars(config)["smallest_kept"]
    return replace(way, folding=lambda spool: SmallestFold(way.folding(spool), kept))

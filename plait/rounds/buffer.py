"""Asynchronous rounds: which updates a fold takes, and how much each counts.

FedBuff (Nguyen et al., "Federated Learning with Buffered Asynchronous Aggregation", arXiv 2106.06639): clients train
whenever they are free, from the newest adapter, and a buffer of K updates is folded as soon as it is full. A *round* is
one fold. An update's *staleness* is the number of folds between the adapter that it was trained from and the one that
it is folded into; it counts 1 / sqrt(1 + staleness).

Fast clients come more often, and would lead. A client has at most one update in a buffer, trains from no adapter twice,
and over as many folds as an update may be stale clients count alike: whoever has come c times in them counts
1 / (1 + c).

Knows no channel and no rule.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from plait.rounds.run_state import RunState

SLOWEST = 10
"""How many times slower than the mean a client may be by default before its updates are too old."""


@dataclass(frozen=True)
class Buffer:
    """The settings of asynchronous rounds.

    Attributes:
        size: updates that are folded at once, K.
        max_staleness: of an update that still counts.
    """

    size: int
    max_staleness: int

    def weight(self, staleness: int, client: str, recent: Sequence[Sequence[str]]) -> float:
        """How much an update counts.

        Args:
            staleness: of the update.
            client: whose it is.
            recent: the clients of each of the folds before, newest last.
        """
        came = sum(client in folded for folded in recent)
        return 1 / math.sqrt(1 + staleness) / (1 + came)

    def kept(self, state: RunState, folded: Sequence[str]) -> RunState:
        """The state before a fold of these clients' updates, with what later folds need of it."""
        versions = {**state.versions, state.round: tuple(track.shadow for track in state.tracks)}
        oldest = state.round + 1 - self.max_staleness
        recent = (*state.recent, tuple(folded))[-self.max_staleness :]
        return replace(state, versions={n: each for n, each in versions.items() if n >= oldest}, recent=recent)


@dataclass(frozen=True)
class Arrival:
    """How an update came.

    Attributes:
        round: that it was trained in: one more than the version of the adapter that it began with.
        fold: the round that it is folded in.
        weight: how much it counts there.
    """

    round: int
    fold: int
    weight: float

    @property
    def staleness(self) -> int:
        """Folds between the adapter that it began with and the one that it is folded into."""
        return self.fold - self.round

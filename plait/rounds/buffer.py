"""Asynchronous rounds: which updates a fold takes, and how much each counts.

FedBuff (Nguyen et al., "Federated Learning with Buffered Asynchronous Aggregation", arXiv 2106.06639): clients train
whenever they are free, from the newest adapter, and a buffer of K updates is folded as soon as it is full. A *round* is
one fold. An update's *staleness* is the number of folds between the adapter that it was trained from and the one that
it is folded into; it counts 1 / sqrt(1 + staleness).

Fast clients come more often, and would lead. A client has at most one update in a buffer, trains from no adapter twice,
and over as many folds as an update may be stale clients count alike: whoever has come c times in them counts
1 / (1 + c). These weights are relative to the others in a buffer, so a buffer of frequent clients alone would move a
whole step. It moves less, in the proportion of its shares 1 / (1 + c) to what is usual in these folds, and never more:
one stale update that stood for many folds would go too far (simulations/LOG.md).

Knows no channel and no rule.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
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
        return _damped(staleness) * _share(sum(client in folded for folded in recent))

    def moved(self, staleness: Mapping[str, int], recent: Sequence[Sequence[str]]) -> float:
        """How much of the mean of a buffer's updates a fold moves, at most 1.

        Args:
            staleness: of the updates in the buffer, by client.
            recent: as for `weight`.
        """
        before = Counter(client for folded in recent for client in folded)
        if not before:
            return 1.0
        usual = sum(count * _share(count) for count in before.values()) / before.total()
        damped = {client: _damped(each) for client, each in staleness.items()}
        own = sum(each * _share(before[client]) for client, each in damped.items()) / sum(damped.values())
        return min(own / usual, 1.0)

    def kept(self, state: RunState, folded: Sequence[str]) -> RunState:
        """The state before a fold of these clients' updates, with what later folds need of it."""
        versions = {**state.versions, state.round: tuple(track.shadow for track in state.tracks)}
        oldest = state.round + 1 - self.max_staleness
        recent = (*state.recent, tuple(folded))[-self.max_staleness :]
        return replace(state, versions={n: each for n, each in versions.items() if n >= oldest}, recent=recent)


def _damped(staleness: int) -> float:
    return 1 / math.sqrt(1 + staleness)


def _share(came: int) -> float:
    """Of a client in a fold that came in so many before, so that clients count alike over all."""
    return 1 / (1 + came)


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

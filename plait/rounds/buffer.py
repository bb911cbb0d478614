"""Asynchronous rounds: which updates a fold takes, and how much each counts.

FedBuff (Nguyen et al., "Federated Learning with Buffered Asynchronous Aggregation", arXiv 2106.06639): clients train
whenever they are free, from the newest adapter, and a full buffer of K updates is folded at once. A *round* is one
fold. An update's *staleness* is the number of folds between the adapter that it was trained from and the one that it is
folded into; it counts 1 / sqrt(1 + s), where s is the staleness in rounds of all clients at work, of which a fold is a
part.

Fast clients come more often, and would lead. A client has at most one update in a buffer, trains from no adapter twice,
and counts less once it has come more often than clients do on average, over as many folds as an update may be stale.
These weights are relative to a whole update and not to the others in a buffer: a fold moves the mean of its updates by
`STEP` times the sum of their weights over the clients at work. A buffer that moved a whole mean would go further, the
more so the smaller it is, and clients whose text has little to gain would pay for it (simulations/LOG.md). Weights by
examples, where a run has them, are relative to the others in a buffer.

What a run plans for it comes last; its loop is `buffer_collector`. Knows no channel and no rule.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from plait.config import RunConfig
from plait.errors import ConfigError, PeerError
from plait.ledger.events import UpdateReceived
from plait.rounds.run_plan import RunPlan
from plait.rounds.run_state import RunState
from plait.rounds.spool import Arrival
from plait.settings.pace import buffer_size

_RECENT = "recent"
SLOWEST = 10
"""How many times slower than the mean a client may be by default before its updates are too old."""

STEP = 1.5
"""How far an update moves the adapter, of what it would in a synchronous round; most weigh less than 1."""


@dataclass(frozen=True)
class Buffer:
    """The settings of asynchronous rounds.

    Attributes:
        max_staleness: of an update that still counts.
        at_work: the most clients that train at once.
    """

    size: int
    max_staleness: int
    at_work: int

    def weight(self, staleness: int, client: str, recent: Sequence[Sequence[str]]) -> float:
        """How much an update counts, at most 1."""
        before = Counter(each for folded in recent for each in folded)
        usual = before.total() / len(before) if before else 0.0
        return min(1.0, (1 + usual) / (1 + before[client])) / math.sqrt(1 + staleness * self.size / self.at_work)

    def moved(self, weights: Collection[float]) -> float:
        """How much of the mean of a buffer's updates a fold moves, at most 1."""
        return min(STEP * math.fsum(weights) / self.at_work, 1.0)

    def kept(self, state: RunState, folded: Sequence[str]) -> RunState:
        """The state before a fold of these clients' updates, with what later folds need of it."""
        versions = {**state.versions, state.round: tuple(track.shadow for track in state.tracks)}
        oldest = state.round + 1 - self.max_staleness
        recent = [*recent_folds(state), list(folded)][-self.max_staleness :]
        remembered = {**state.remembered, _RECENT: recent}
        return replace(state, versions={n: each for n, each in versions.items() if n >= oldest}, remembered=remembered)


def recent_folds(state: RunState) -> list[list[str]]:
    """The clients of each of the last folds, the newest last."""
    return cast("list[list[str]]", state.remembered.get(_RECENT, []))


def asking_order(clients: Sequence[str], at_work: int, *, known: int, seed: int, round_number: int) -> list[str]:
    """The order of asking free clients in an asynchronous round.

    Args:
        known: all clients; where they cannot all be at work, chance decides.
    """
    names = sorted(clients)
    if known > at_work:
        np.random.default_rng([seed, round_number, 2]).shuffle(names)
    return names


def settled(config: RunConfig) -> dict[str, object]:
    """The settings that are open: how many updates a buffer has."""
    return {"rounds_mode": f"async:{_size(config)}"}


def buffer_of(config: RunConfig) -> Buffer:
    """The buffer of a run."""
    size = _size(config)
    return Buffer(size, SLOWEST * math.ceil(config.cohort_size / size), config.cohort_size)


def planned(plan: RunPlan, config: RunConfig) -> RunPlan:
    """The plan of a run whose rounds are buffers."""
    size = _size(config)
    return replace(plan, folds=size, quorum=math.ceil(config.quorum * size), measures_pace=True)


def arrival(buffer: Buffer, state: RunState, event: UpdateReceived) -> Arrival:
    """How the next recorded update to fold came.

    Raises:
        PeerError: the ledger says something else than follows from the updates before it.
    """
    fold, what = state.round + 1, f"update of {event.client!r} in round {event.round}"
    staleness = fold - event.round
    if event.fold != fold or not 0 <= staleness <= buffer.max_staleness:
        raise PeerError(
            f"{what} is folded in round {event.fold}, expected {fold}, with a staleness of at most "
            f"{buffer.max_staleness}"
        )
    weight = buffer.weight(staleness, event.client, recent_folds(state))
    if (event.staleness, event.weight) != (staleness, weight):
        raise PeerError(
            f"{what} has staleness {event.staleness} and weight {event.weight}, expected {staleness} and {weight}"
        )
    return Arrival(event.round, fold, weight)


def check(settings: RunConfig, *, simulates: bool) -> None:
    """Refuse simulated clients none of which is faster than another."""
    if simulates and not settings.fleet:
        raise ConfigError(
            f"rounds-mode is '{settings.rounds_mode}' and fleet is not given, expected a TOML file of devices: only it "
            "says which simulated client is faster"
        )


def _size(config: RunConfig) -> int:
    return buffer_size(config.rounds_mode, config.cohort_size)

"""What asynchronous rounds exchange in a run: its plan, its collector, its fold, and how recorded updates came."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

from plait.config import RunConfig
from plait.errors import ConfigError, PeerError
from plait.rounds.buffer import SLOWEST, Buffer, recent_folds
from plait.rounds.events import UpdateReceived
from plait.rounds.fold import Fold
from plait.rounds.run_plan import RunPlan
from plait.rounds.run_state import RunState
from plait.rounds.spool import Arrival, Spool
from plait.rounds.way import Way
from plait.settings.pace import buffer_size


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


def with_buffer(way: Way, config: RunConfig) -> Way:
    """The way of a run whose rounds are buffers."""
    return of_buffer(way, buffer_of(config))


def of_buffer(way: Way, buffer: Buffer) -> Way:
    """The same with rounds that are buffers like this one."""
    # Not imported by the clients of such a run.
    from plait.rounds.buffer_collector import BufferCollector, BufferedFold

    def folding(spool: Spool) -> Fold:
        return BufferedFold(way.folding(spool), buffer)

    return replace(
        way,
        collecting=partial(BufferCollector, buffer=buffer),
        folding=folding,
        arriving=partial(arrival, buffer),
    )


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
    """Refuse simulated clients none of which is faster than another.

    Raises:
        ConfigError: nothing says how fast each is.
    """
    if simulates and not settings.fleet:
        raise ConfigError(
            f"rounds-mode is '{settings.rounds_mode}' and fleet is not given, expected a TOML file of devices: only it "
            "says which simulated client is faster"
        )


def _size(config: RunConfig) -> int:
    return buffer_size(config.rounds_mode, config.cohort_size)

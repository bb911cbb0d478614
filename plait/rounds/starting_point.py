"""The start of a run that does not start from its seed alone, but from an existing adapter.

Clients always derive the initial adapter of the spec's seed; the difference reaches them with the first broadcast, as
the run's wire codes it (`plait.rounds.downlink`): what clients start from lies that far beside the master.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from plait.adapters import AdapterState, Parent, parents_from
from plait.rounds.broadcasts import follow
from plait.rounds.events import Event, start_of
from plait.rounds.run_state import RunState, Track
from plait.rounds.tracks import Ranks
from plait.wire.codec import Codec
from plait.wire.codecs import Rate


@dataclass(frozen=True, eq=False)
class StartingPoint:
    """The starting point of a run.

    Attributes:
        parents: the adapters that it is derived from; none for a run that starts from its seed.
        adapter: the master's values; None for those of the seed.
        lost: fraction of the parents' products that the adapter's rank could not hold, 0 to 1.
    """

    parents: tuple[Parent, ...] = ()
    adapter: AdapterState | None = None
    lost: float = 0.0


def starting_state(
    state: RunState, start: StartingPoint, ranks: Ranks, base_fingerprint: bytes, *, codec: Codec
) -> RunState:
    """The state before round 1 of a run with this starting point."""
    if start.adapter is not None:
        state = replace(state, adapter=start.adapter)
        if isinstance(codec, Rate):
            state, _ = follow(state, ranks, base_fingerprint, codec=codec, new_factors=False)
        else:
            tracks = tuple(Track(ranks.resized(start.adapter, number)) for number in range(len(state.tracks)))
            state = replace(state, tracks=tracks)
    return state


def parents_in(events: Sequence[Event]) -> tuple[Parent, ...]:
    """The adapters that the run of a ledger started from."""
    started = start_of(events)
    return parents_from([dict(parent) for parent in started.parents]) if started and started.parents else ()

"""A finished run computed again from its kept updates."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from plait.composition import way_of
from plait.errors import PeerError
from plait.federation import beginning_of
from plait.ledger.events import Event
from plait.ledger.run_view import RunView
from plait.rounds.audit import replay
from plait.rounds.broadcasts import parents_in, starting_state
from plait.rounds.coordinator import Host
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_state import initial_state
from plait.run import Run


def recomputed(directory: RunDirectory, events: Sequence[Event], run: Run) -> int:
    """Recompute every finished round, and compare; the number of rounds with the same adapter, bit for bit.

    Raises:
        CannotRecomputeError: runs of this kind cannot be.
        PeerError: a round gives another result, or the run started from what is not there any more.
    """
    plan = run.settled.plan

    def refuse(event: Event) -> None:
        raise PeerError(f"'{event.event}' would be recorded, expected what the ledger has already")

    way = way_of(plan, run.config, Host(directory, events, refuse, recomputes=True))
    start = beginning_of(run)
    if start.parents != parents_in(events):
        raise PeerError("an adapter that the run started from has changed since, expected those that the ledger names")
    fresh = initial_state(bytes.fromhex(RunView.of(events).start.run), run.ranks)
    state = starting_state(fresh, start, run.ranks, run.base_fingerprint, codec=plan.settings.codec)
    aggregator = partial(run.aggregator, directory, way.folding)
    return replay(events, state, aggregator, arriving=way.arriving, take_back=plan.watch.take_back)

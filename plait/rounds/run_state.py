"""The state of a run between two rounds, and the pure steps from one to the next.

Two adapters are kept apart. `adapter` is the server's own float32 master. A *shadow* is what clients hold once they
applied the newest broadcast: the wire may have rounded it. What a broadcast left out stays in `adapter - shadow` and
travels with the next one, so nothing is ever lost to the codec. Clients of another rank follow a track of their own.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from plait.adapters import AdapterState, Json, add
from plait.aggregation import Memory, OptimizerMemory
from plait.rounds.moved_base import MovedBase
from plait.rounds.norm_bound import Norms
from plait.rounds.tracks import Ranks


@dataclass(frozen=True)
class Track:
    """What the clients of one rank hold, and the step that led them there.

    Attributes:
        shadow: what a client holds that is up to date.
        previous: digest of the shadow before this one, which `broadcast` starts from; empty before round 1.
        broadcast: the sealed envelope that leads from the previous shadow to this one; empty before round 1.
        drift: how far the adapter behind the shadow moves a round (see `error_feedback.Debt`).
    """

    shadow: AdapterState
    previous: bytes = b""
    broadcast: bytes = b""
    drift: AdapterState | None = None


@dataclass(frozen=True)
class BaseTrack:
    """How far the base has moved, and the step that led there.

    Attributes:
        moved: as every client that is up to date has it.
        previous: digest of the moved base before the newest step; empty for none.
        broadcast: the sealed envelope of the newest step; empty while the base stands.
    """

    moved: MovedBase = field(default_factory=MovedBase)
    previous: bytes = b""
    broadcast: bytes = b""


@dataclass(frozen=True)
class Held:
    """What a client is known to hold.

    Attributes:
        adapter: digest of its adapter; empty for none.
        base: digest of its moved base; empty for one that has not moved.
    """

    adapter: bytes = b""
    base: bytes = b""


@dataclass(frozen=True)
class RunState:
    """Everything that the next round depends on.

    Attributes:
        run_id: 16 random bytes that name the run in every envelope.
        round: rounds finished so far.
        adapter: the server's master.
        tracks: one for each rank that clients have, that of the master's rank first.
        base: how far the base has moved.
        held: what each client holds, by client name.
        rule_memory: what the rule keeps from round to round.
        optimizer_memory: what the server optimizer keeps.
        norms: medians of how large the updates of the last rounds were (see norm_bound.py).
        finished: the fields of the ``round_finished`` event of round `round`; empty before round 1. They are kept with
            the state so that the ledger can be completed after a crash between the two.
    """

    run_id: bytes
    round: int
    adapter: AdapterState
    tracks: tuple[Track, ...]
    base: BaseTrack = field(default_factory=BaseTrack)
    held: Mapping[str, Held] = field(default_factory=dict[str, Held])
    rule_memory: Memory = field(default_factory=dict[str, NDArray[np.generic]])
    optimizer_memory: OptimizerMemory = field(default_factory=dict[str, NDArray[np.generic]])
    norms: tuple[Norms, ...] = ()
    finished: Mapping[str, Json] = field(default_factory=dict[str, Json])

    @property
    def shadow(self) -> AdapterState:
        """What an up-to-date client of the master's rank holds."""
        return self.tracks[0].shadow

    def held_on(self, track: int) -> Held:
        """What a client of this track holds that is up to date."""
        return Held(self.tracks[track].shadow.digest(), self.base.moved.digest)


def initial_state(run_id: bytes, ranks: Ranks) -> RunState:
    """The state before round 1: every client derives its adapter from the spec's seed, so nobody needs a broadcast."""
    tracks = tuple(Track(adapter.initial) for adapter in ranks.adapters)
    return RunState(run_id=run_id, round=0, adapter=ranks.master.initial, tracks=tracks)


def advance(state: RunState, step: AdapterState) -> RunState:
    """One round further: the rule's `step` is applied to the master; the shadows follow with the next broadcast."""
    return replace(state, round=state.round + 1, adapter=add(state.adapter, step))


def note_held(state: RunState, client: str, held: Held) -> RunState:
    """Remember what `client` holds."""
    return replace(state, held={**state.held, client: held})


def sample_cohort(clients: Sequence[str], size: int, *, seed: int, round_number: int) -> tuple[str, ...]:
    """The clients of a round: `size` of them without replacement, in name order, decided by seed and round."""
    ordered = sorted(clients)
    if size >= len(ordered):
        return tuple(ordered)
    generator = np.random.default_rng([seed, round_number])
    chosen = generator.choice(len(ordered), size=size, replace=False)
    return tuple(ordered[index] for index in sorted(chosen))


def choose_cohort(
    clients: Sequence[str], size: int, *, over_selection: float, seed: int, round_number: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Who is asked in a round, and who is next where somebody fails.

    Args:
        clients: all that could be asked.
        size: updates that are wanted.
        over_selection: how many more are asked, as a fraction of `size`.
        seed: of the run.
        round_number: the round.

    Returns:
        (the cohort in name order, all others in the order in which they replace).
    """
    asked = math.ceil(size * (1 + over_selection))
    cohort = sample_cohort(clients, asked, seed=seed, round_number=round_number)
    others = sorted(set(clients) - set(cohort))
    np.random.default_rng([seed, round_number, 1]).shuffle(others)
    return cohort, tuple(others)


def client_seed(seed: int, round_number: int, client: str) -> int:
    """The 63-bit seed of one client's work in one round, independent of who else takes part."""
    text = f"{seed}/{round_number}/{client}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little") >> 1

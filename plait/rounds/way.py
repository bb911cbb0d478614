"""The way of a run: how its updates are gathered, how they are folded, and what its rounds cost.

The default is a cohort, a plain fold, no costs. `plait.composition` exchanges parts of it as a run asks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from plait.errors import ConfigError
from plait.rounds.cohort import CohortCollector, Collecting
from plait.rounds.costs import Costs, Free
from plait.rounds.events import Event, UpdateReceived
from plait.rounds.fold import Folding, PlainFold
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_state import RunState
from plait.rounds.spool import Arrival

if TYPE_CHECKING:
    from plait.trust.identity import Vouch


class CannotRecomputeError(ConfigError):
    """Something that recomputing a run's rounds needs is not here."""


@dataclass(frozen=True)
class Host:
    """The server that goes a way.

    Attributes:
        events: of its ledger so far.
        record: writes an event durably.
        vouch: whether a node key is a client's; None where that is not known.
        recomputes: whether finished rounds are recomputed, and nothing may be recorded.
    """

    directory: RunDirectory
    events: Sequence[Event]
    record: Callable[[Event], None]
    vouch: Vouch | None = None
    recomputes: bool = False


Arriving: TypeAlias = Callable[[RunState, UpdateReceived], Arrival]
"""How the next update to fold came, by the state before and its record, which is checked: `PeerError`."""


@dataclass(frozen=True)
class Way:
    """The parts of a run that are exchanged.

    Attributes:
        least: clients without which no round begins; 0 for the run's quorum.
        arriving: how a recorded update came; None where all are folded in their own round.
        host: None where rounds are only planned.
    """

    collecting: Collecting = CohortCollector
    folding: Folding = PlainFold
    costs: Costs = field(default_factory=Free)
    least: int = 0
    arriving: Arriving | None = None
    host: Host | None = None

"""The way of a run: how its updates are gathered, how they are folded, and what its rounds cost.

The core's way is the default: a cohort, a plain fold, no costs. Features have parts of their own; `way_of` picks them
by what the settings have settled on, and imports no others. What a feature of `plait.feature` exchanges, it exchanges
last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, cast

from plait.config import RunConfig
from plait.feature import at
from plait.rounds.cohort import CohortCollector
from plait.rounds.collector import Collecting
from plait.rounds.costs import Costs, Free
from plait.rounds.events import UpdateReceived
from plait.rounds.fold import Folding, PlainFold
from plait.rounds.run_plan import RunPlan
from plait.rounds.run_state import RunState
from plait.rounds.spool import Arrival

if TYPE_CHECKING:
    from plait.rounds.masked_rounds import MaskedRounds
    from plait.rounds.private_rounds import PrivateRounds
    from plait.secagg.roster import Vouch


Arriving: TypeAlias = Callable[[RunState, UpdateReceived], Arrival]
"""How an update came that is to be folded next, by the state before and its record, which is checked: `PeerError`."""


@dataclass(frozen=True)
class Way:
    """The parts of a run that features exchange.

    Attributes:
        least: clients without which no round begins; 0 for the run's quorum.
        arriving: how a recorded update came; None where all are folded in their own round.
    """

    collecting: Collecting = CohortCollector
    folding: Folding = PlainFold
    costs: Costs = field(default_factory=Free)
    least: int = 0
    arriving: Arriving | None = None


Exchanging: TypeAlias = Callable[[Way, RunConfig, RunPlan], Way]
"""Puts parts of a feature's own into a way; what `Feature.way` names."""


def way_of(
    plan: RunPlan,
    *,
    config: RunConfig | None = None,
    private: PrivateRounds | None = None,
    masked: MaskedRounds | None = None,
    vouch: Vouch = lambda _offer: False,
) -> Way:
    """The way of a run.

    Args:
        plan: of the run.
        config: its settings, which may ask for features.
        private: with differential privacy of clients.
        masked: with secure aggregation; clients add the noise under masks, if there is any.
        vouch: whether a node key is the client's that an offer names, for secure aggregation.
    """
    way = _own_way(plan, private, masked, vouch)
    if config:
        for exchange in (cast("Exchanging", at(feature.way)) for feature in config.wanted if feature.way):
            way = exchange(way, config, plan)
    return way


def _own_way(plan: RunPlan, private: PrivateRounds | None, masked: MaskedRounds | None, vouch: Vouch) -> Way:
    costs: Costs = private or Free()
    if plan.settings.records_are_private:
        from plait.rounds.record_costs import RecordCosts

        costs = RecordCosts(plan.settings, masked=masked is not None)
    if masked:
        from plait.rounds.masked_collector import MaskedCollector
        from plait.rounds.masked_fold import MaskedFold

        collecting = partial(MaskedCollector, masked=masked, private=private, vouch=vouch)
        return Way(collecting, partial(MaskedFold, masked=masked), costs, masked.least("train"))
    if private:
        from plait.rounds.private_fold import PrivateFold

        return Way(folding=partial(PrivateFold, private=private), costs=costs)
    return Way(costs=costs)

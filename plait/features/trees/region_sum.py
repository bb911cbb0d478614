"""The exact sum of the updates of a region's clients, for the server above it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from plait.adapters.partial_sum import PartialSum
from plait.aggregation.exact_sum import ExactSum
from plait.errors import PeerError
from plait.rounds.norm_bound import Norms
from plait.rounds.run_state import RunState
from plait.rounds.spool import Spool, Stored
from plait.wire.envelope import Opened


@dataclass(frozen=True)
class Summed:
    """The sum of a round.

    Attributes:
        limits: the largest that a norm may be.
    """

    part: PartialSum
    clients: Sequence[str]
    norms: Sequence[Norms]
    limits: Norms


class Adding(Protocol):
    """What adds up the updates of a region's spool."""

    @property
    def tells_figures(self) -> bool:
        """Whether the sum says what was measured in training."""
        ...

    def check(self, opened: Opened, number: int) -> None:
        """Refuse what cannot be added.

        Raises:
            UpdateRefused: it cannot.
        """
        ...

    def of(self, state: RunState, number: int, stored: Mapping[str, Stored]) -> Summed:
        """The exact sum of the stored updates.

        Raises:
            MachineError: a stored update is gone.
            PeerError: none of them counts.
        """
        ...


@dataclass(frozen=True, eq=False)
class RegionSum:
    """Adds up the updates of a region's spool."""

    spool: Spool
    tells_figures: bool = True

    def check(self, opened: Opened, number: int) -> None:
        """Nothing: `plait.rounds.validate` has checked it."""

    def of(self, state: RunState, number: int, stored: Mapping[str, Stored]) -> Summed:
        """The exact sum of the stored updates.

        Raises:
            MachineError: a stored update is gone.
            PeerError: none of them counts.
        """
        spool = self.spool
        check = spool.counting(state, number, stored)
        if not check.accepted:
            raise PeerError(f"none of the updates of round {number} counts")
        norms = [stored[client].norms for client in check.accepted]
        weights, _ = spool.weights(check.accepted, stored)
        total = ExactSum(spool.ranks.master.geometry.layout.size)
        for contribution in spool.contributions(state, number, check, weights, stored, {}):
            if contribution.sum is not None:
                total.join(contribution.sum)
            else:
                total.add(contribution.delta.flat, contribution.weight)
        return Summed(total.part(), check.accepted, norms, check.limits)

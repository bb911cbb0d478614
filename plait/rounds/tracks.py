"""The adapters of one federation, one for each rank of its clients, all of one family.

The server's master has one rank. A client of a lower one gets the best approximation or the leading part of it (the
rule decides); all start from rows that were drawn once, at the server's rank.
"""

from __future__ import annotations

from dataclasses import dataclass

from plait.adapters import AdapterSpec, AdapterState
from plait.aggregation import Geometry, Resizing


@dataclass(frozen=True, eq=False)
class RankedAdapter:
    """The adapter of one rank before any training.

    Attributes:
        rank: of every pair; 0 if the method has no rank.
        spec: from which a client derives it.
    """

    rank: int
    spec: AdapterSpec
    geometry: Geometry
    initial: AdapterState


@dataclass(frozen=True, eq=False)
class Ranks:
    """All adapters of the federation.

    Attributes:
        resizing: how a client of another rank gets its adapter from the master.
        clients_have_masters: whether clients may also have the server's own rank.
    """

    adapters: tuple[RankedAdapter, ...]
    resizing: Resizing = Resizing.SLICE
    clients_have_masters: bool = True

    @property
    def master(self) -> RankedAdapter:
        """The server's own."""
        return self.adapters[0]

    @property
    def cohort(self) -> tuple[Geometry, ...]:
        """The geometries that clients may have; empty if all have the server's."""
        return tuple(self.adapters[track].geometry for track in self._of_clients) if len(self.adapters) > 1 else ()

    def track_for(self, max_rank: int) -> int:
        """Index of the adapter for a client with this largest rank (0: any), the smallest if none fits."""
        tracks = sorted(self._of_clients, key=lambda track: -self.adapters[track].rank)
        fitting = (track for track in tracks if not max_rank or self.adapters[track].rank <= max_rank)
        return next(fitting, tracks[-1])

    def resized(self, master: AdapterState, track: int) -> AdapterState:
        """The adapter of a track's clients when the server holds `master`."""
        target = self.adapters[track]
        if target is self.master:
            return master
        from plait.aggregation.low_rank import fitted

        return fitted(
            master,
            source=self.master.geometry,
            target=target.geometry,
            resizing=self.resizing,
            fresh=target.initial,
        )

    @property
    def opened_bytes(self) -> int:
        """Memory that the numbers of an update take, at most."""
        return 4 * max(adapter.geometry.layout.size for adapter in self.adapters)

    @property
    def _of_clients(self) -> range:
        return range(0 if self.clients_have_masters or len(self.adapters) == 1 else 1, len(self.adapters))

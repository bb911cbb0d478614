"""What one client contributes to a round, and the check that it can be aggregated.

The check comes before anything is changed: a refused contribution leaves the round unchanged. Knows no rule.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from plait.adapters import AdapterState, check_finite
from plait.aggregation.geometry import Geometry, Pair, Side
from plait.errors import PeerError

# Far above any count of examples or tokens, far below where float64 sums of weights lose whole numbers.
_LARGEST_WEIGHT = 1e12


@dataclass(frozen=True, eq=False)
class Contribution:
    """One client's delta.

    Attributes:
        received: the adapter that it trained from, in its own layout.
        delta: its adapter after training minus `received`.
        weight: positive; only its ratio to the other clients' weights matters.
        geometry: of its own layout, whose rank differs from the server's where ranks are mixed.
        examples: the training examples that it states; 0 where that is not known.
        loss: the mean loss of its local steps, as it states it; NaN where that is not known.
        slope: of its first loss along the adapter's last movement, over that loss, as it states them; NaN likewise.
    """

    client: str
    received: AdapterState
    delta: AdapterState
    weight: float
    geometry: Geometry
    examples: int = 0
    loss: float = math.nan
    slope: float = math.nan

    def check(self, server: Geometry, *, ranks: Ranks, frozen: Collection[Side] = ()) -> None:
        """Refuse what cannot be aggregated.

        Args:
            ranks: the ranks that the rule takes besides the server's.

        Raises:
            PeerError: the weight is invalid, the tensors or ranks are not the declared ones, modules differ from the
                server's, a frozen side has changed, or a value is not finite.
        """
        try:
            self._check_weight()
            self._check_geometry(server, ranks)
            check_finite(self.delta)
            for side in sorted(frozen):
                self._check_frozen(side)
        except PeerError as error:
            raise PeerError(f"update of {self.client!r}: {error}") from error

    def _check_weight(self) -> None:
        if not (math.isfinite(self.weight) and 0 < self.weight <= _LARGEST_WEIGHT):
            raise PeerError(f"weight is {self.weight:g}, expected more than 0 and at most {_LARGEST_WEIGHT:g}")

    def _check_geometry(self, server: Geometry, ranks: Ranks) -> None:
        own = self.geometry
        for state in (self.received, self.delta):
            if state.layout is not own.layout and state.layout.digest != own.layout.digest:
                raise PeerError("tensors or ranks are not the ones of the declared adapter")
        if own is server:
            return
        if [(slot.name, slot.shape) for slot in own.others] != [(slot.name, slot.shape) for slot in server.others]:
            raise PeerError("tensors beside the LoRA factors differ from the server's")
        if own.by_module.keys() != server.by_module.keys():
            odd = min(own.by_module.keys() ^ server.by_module.keys())
            raise PeerError(f"module {odd!r} is not adapted on both ends")
        for mine, theirs in zip(own.pairs, server.pairs, strict=True):
            if (mine.d_in, mine.d_out) != (theirs.d_in, theirs.d_out):
                raise PeerError(
                    f"'{mine.module}' is {mine.d_out} x {mine.d_in}, expected {theirs.d_out} x {theirs.d_in}"
                )
            ranks.check(mine, theirs)

    def _check_frozen(self, side: Side) -> None:
        for pair in self.geometry.pairs:
            slot = pair.slot(side)
            if self.delta.flat[slot.offset : slot.offset + slot.size].any():
                raise PeerError(f"{side} of '{pair.module}' has changed, expected it frozen in this round")


@dataclass(frozen=True)
class Ranks:
    """The ranks that a rule takes.

    Attributes:
        lower: clients may have less than the server's rank, and their own scale.
    """

    lower: bool
    higher: bool

    def check(self, client: Pair, server: Pair) -> None:
        """Raise PeerError where `client` has a rank or scale that the rule cannot take."""
        if client.rank < server.rank and not self.lower:
            raise PeerError(f"rank of '{client.module}' is {client.rank}, expected {server.rank}")
        if client.rank > server.rank and not self.higher:
            at_most = "at most " if self.lower else ""
            raise PeerError(f"rank of '{client.module}' is {client.rank}, expected {at_most}{server.rank}")
        if not self.lower and client.scale != server.scale:
            raise PeerError(f"scale of '{client.module}' is {client.scale:g}, expected {server.scale:g}")


ONE_RANK = Ranks(lower=False, higher=False)
UP_TO_SERVER = Ranks(lower=True, higher=False)
ANY_RANK = Ranks(lower=True, higher=True)

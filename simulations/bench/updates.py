"""Synthetic updates to measure aggregation on: of a real adapter's size, with a given amount in common."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from plait.adapters import AdapterState, Float32, Subject
from plait.aggregation import BOTH_SIDES, Contribution, Geometry, RoundContext, Rule
from plait.aggregation.means import square_geometry


@dataclass(frozen=True)
class Drift:
    """How clients move in a round.

    Attributes:
        size: norm of a client's change of a factor, relative to the factor's.
        shared: the fraction of the squared change that all clients have in common, from 0 to 1.
    """

    size: float = 0.1
    shared: float = 0.5


class Updates:
    """A round of a rule and updates for it.

    Args:
        rule: clients do not change what it freezes; Fed-SB gets square matrices of the same rank.
        factors: the LoRA adapter.
        seed: of all values.
        drift: of the clients.
    """

    def __init__(self, rule: Rule, factors: Geometry, *, seed: int, drift: Drift) -> None:
        self._geometry = square_geometry(factors) if rule.subject is Subject.SQUARES else factors
        self._drift = drift
        self._seed = seed
        size = self._geometry.layout.size
        chance = np.random.default_rng([seed, 0])
        master = AdapterState(self._geometry.layout, chance.standard_normal(size, np.float32))
        self._shared = chance.standard_normal(size, np.float32)
        self._trains = np.ones(size, np.float32)
        for side in BOTH_SIDES - rule.trained(1):
            for pair in self._geometry.pairs:
                slot = pair.slot(side)
                self._trains[slot.offset : slot.offset + slot.size] = 0
        self.context = RoundContext(
            round=1, master=master, geometry=self._geometry, initial=AdapterState.zeros(master.layout), seed=seed
        )

    def delta(self, client: int) -> Float32:
        """What a client sends, (layout.size,)."""
        own = np.random.default_rng([self._seed, 1 + client]).standard_normal(self._shared.size, np.float32)
        drift = self._drift
        own *= np.float32(drift.size * (1 - drift.shared) ** 0.5)
        own += np.float32(drift.size * drift.shared**0.5) * self._shared
        own *= self._trains
        return own

    def contribution(self, client: int, delta: Float32) -> Contribution:
        """An update of this delta, in its own buffer: a server decodes each into a separate one."""
        state = AdapterState(self._geometry.layout, delta.copy())
        return Contribution(f"client-{client:06d}", self.context.master, state, 1.0 + client % 7, self._geometry)

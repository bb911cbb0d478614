"""One line of a benchmark: what was measured, the same of alternatives, and the best possible value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Json = dict[str, object]


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        row: what was measured; the text does not change.
        value: the measurement.
        unit: of all its numbers.
        peers: the same of alternatives.
        limit: the best possible value, if known.
        more_is_better: whether greater values are better.
    """

    row: str
    value: float
    unit: str
    peers: Mapping[str, float] = field(default_factory=dict[str, float])
    limit: float | None = None
    more_is_better: bool = False

    def to_json(self) -> Json:
        """The printed form; ratios above 1 mean that plait is better, and are null where there is none."""
        best = (max if self.more_is_better else min)(self.peers.values(), default=None)
        return {
            "row": self.row,
            "value": self.value,
            "unit": self.unit,
            "peers": dict(self.peers),
            "limit": self.limit,
            "ratio_to_best_peer": self._ratio_to(best),
            "ratio_to_limit": self._ratio_to(self.limit),
        }

    def __str__(self) -> str:
        """For people: one line."""
        beside = [f"{name} {value:,.4g}" for name, value in self.peers.items()]
        if self.limit is not None:
            beside.append(f"limit {self.limit:,.4g}")
        return f"{self.row}: {self.value:,.4g} {self.unit}" + (f" ({', '.join(beside)})" if beside else "")

    def _ratio_to(self, other: float | None) -> float | None:
        if other is None or self.value <= 0 or other <= 0:
            return None
        return self.value / other if self.more_is_better else other / self.value

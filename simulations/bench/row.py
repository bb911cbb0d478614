"""One line of a benchmark: what was measured, what others need for the same, and how good it could be at best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Json = dict[str, object]


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        row: what was measured, in words that stay the same.
        value: the measurement.
        unit: of all its numbers.
        peers: the same of others.
        limit: what cannot be beaten, where that is known.
        more_is_better: whether a greater value is the better one.
    """

    row: str
    value: float
    unit: str
    peers: Mapping[str, float] = field(default_factory=dict[str, float])
    limit: float | None = None
    more_is_better: bool = False

    def to_json(self) -> Json:
        """As benchmarks print it; ratios above 1 mean that plait is better, and are null where there is none."""
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

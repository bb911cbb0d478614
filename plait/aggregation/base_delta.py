"""What a rule adds to the frozen base itself: per module the factors of a matrix, with the scale multiplied in.

Rules that move the base (FLoRA, FedEx-LoRA) return this next to the adapter. Deltas of many rounds add up to a rank
that grows with clients and rounds, but never above that of the weight: from there on QR holds the sum without loss.
Knows no weights of a base and no file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plait.aggregation.low_rank import LowRank


@dataclass(frozen=True, eq=False)
class BaseDelta:
    """W0' = W0 + b @ a for each module.

    Attributes:
        factors: module names as in `Pair.module`, and b (d_out, n), a (n, d_in) in float64.
    """

    factors: Mapping[str, LowRank]

    def plus(self, other: BaseDelta) -> BaseDelta:
        """Both changes together, exact to rounding; no module takes more columns than its weight has rows or columns.

        A module that only one of them has keeps its factors.
        """
        summed = dict(self.factors)
        for module, factors in other.factors.items():
            summed[module] = summed[module].plus(factors).fitted() if module in summed else factors
        return BaseDelta({module: summed[module] for module in sorted(summed)})

    def compressed(self, tolerance: float = 0.0) -> BaseDelta:
        """The fewest columns that hold each module within `tolerance` of its Frobenius norm; 0 loses only rounding."""
        return BaseDelta({module: factors.compressed(tolerance) for module, factors in self.factors.items()})

    def rounded(self) -> BaseDelta:
        """The values rounded to float32, which is what a receiver of float32 factors has."""
        return BaseDelta(
            {
                module: LowRank(*(factor.astype(np.float32).astype(np.float64) for factor in (f.b, f.a)))
                for module, f in self.factors.items()
            }
        )

    def norm(self) -> float:
        """Frobenius norm over all modules."""
        return math.sqrt(sum(factors.norm() ** 2 for factors in self.factors.values()))

    @property
    def size(self) -> int:
        """Number of elements of all factors: the size of a broadcast of it."""
        return sum(factors.b.size + factors.a.size for factors in self.factors.values())

    def to_arrays(self) -> dict[str, NDArray[np.float64]]:
        """Plain arrays under ``<module>.b`` and ``<module>.a``."""
        return {
            f"{module}.{name}": array
            for module, factors in self.factors.items()
            for name, array in (("b", factors.b), ("a", factors.a))
        }

"""A sum of weighted deltas that was not rounded: what a part of the clients contributes, so that parts add up exactly.

The numbers are cut at the multiples of 32 in the exponents of two, the *places*; `plait.aggregation.exact_sum` makes
such sums. Knows no bytes and no rule.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plait.adapters.state import Float32

LIMB_BITS = 32

Float64Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PartialSum:
    """An exact sum of weight times delta.

    Attributes:
        limbs: by place, (size,) float64: the whole numbers by which 2^(32 place) is multiplied, from 0 to 2^32 - 1,
            but in the highest place, which has the sign, from -2^31 to 2^31. There is at least one place, and none is
            left out between two.
    """

    limbs: Mapping[int, Float64Array]
    weight: float

    def total(self) -> Float64Array:
        """The sum in float64: the same for the same sum, whatever its highest place is."""
        places = sorted(self.limbs, reverse=True)
        total = np.ldexp(self.limbs[places[0]], LIMB_BITS * places[0])
        for place in places[1:]:
            # While the numbers are short this is exact, so it does not matter whether the sign had a place of its own;
            # from then on the digits to come are the same in any case.
            total += np.ldexp(self.limbs[place], LIMB_BITS * place)
        return total

    def mean(self) -> Float32:
        """The sum over the sum of weights, (size,), as every fold of the same updates rounds it."""
        mean = np.empty(next(iter(self.limbs.values())).size, np.float32)
        return np.divide(self.total(), self.weight, out=mean, casting="same_kind")

    @classmethod
    def of(cls, values: Float32) -> PartialSum:
        """Of one delta with weight 1."""
        return cls(carried(dict(cut_up(values.astype(np.float64))) or {0: np.zeros(values.size)}), 1.0)


def cut_up(values: Float64Array, *, into: Float64Array | None = None) -> Iterator[tuple[int, Float64Array]]:
    """What numbers have in each place, in units of it, at most 2^31 of them; changes the numbers to zeros.

    Args:
        into: holds what was cut last, instead of a new array for each place.
    """
    largest = max(float(values.max(initial=0.0)), -float(values.min(initial=0.0)))
    # The lowest place that holds the largest.
    place = math.ceil((math.frexp(largest)[1] - LIMB_BITS + 1) / LIMB_BITS)
    while values.any():
        # Adding 1.5 * 2^52 units rounds to whole units.
        anchor = math.ldexp(1.5, 52 + LIMB_BITS * place)
        cut = np.add(values, anchor, out=into)
        cut -= anchor
        values -= cut
        cut *= math.ldexp(1.0, -LIMB_BITS * place)
        yield place, cut
        place -= 1


def carried(limbs: dict[int, Float64Array]) -> dict[int, Float64Array]:
    """The same sum in the form that a `PartialSum` has; changes the arrays, whose numbers are below 2^53."""
    if not limbs:
        return limbs
    size = next(iter(limbs.values())).size
    place = min(limbs)
    while place < max(limbs) or np.abs(limbs[place]).max(initial=0.0) > 2.0 ** (LIMB_BITS - 1):
        limb = limbs.setdefault(place, np.zeros(size, np.float64))
        up = np.floor(limb * 2.0**-LIMB_BITS)
        limb -= up * 2.0**LIMB_BITS
        place += 1
        limbs.setdefault(place, np.zeros(size, np.float64))
        limbs[place] += up
    return limbs

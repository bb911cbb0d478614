"""The grid of whole numbers on which updates are summed: the clip norm is `radius` of its units.

Sums of floats are not what the proof of a Gaussian mechanism speaks of (Mironov 2012; Casacuberta et al., arXiv
2207.10635); sums of whole numbers are exact, in any order. Knows no update.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_LEAST_RADIUS = 1 << 12
# The noise's table has about ten numbers for each unit of sigma.
_LARGEST_SIGMA = 1 << 17


@dataclass(frozen=True)
class Grid:
    """A grid.

    Attributes:
        radius: the clip norm, in units: the sensitivity of the sum, exactly.
        sigma: standard deviation of the noise, in units.
    """

    radius: int
    sigma: float

    def unit(self, clip_norm: float) -> float:
        """The size of a unit where updates are clipped to `clip_norm`."""
        return clip_norm / self.radius


def grid_for(size: int, noise_multiplier: float) -> Grid:
    """The grid for updates of `size` numbers.

    Rounding a number to one of its neighbours at random adds up to 1/4 to the square of an update's length. With a
    radius of 4 sqrt(size) that is under 2 %, and far below the noise; where the noise is so large that its table
    would not fit, the radius is smaller and clipping takes more of the update.
    """
    wanted = max(_LEAST_RADIUS, math.ceil(4 * math.sqrt(size)))
    radius = max(1, min(wanted, int(_LARGEST_SIGMA / noise_multiplier)))
    return Grid(radius, noise_multiplier * radius)

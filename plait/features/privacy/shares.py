"""Noise that clients add themselves, each a share, under masks: no server ever sees a sum without it.

After Kairouz, Liu and Steinke, "The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure
Aggregation", arXiv 2102.06387: each of n clients sends k_i ~ N_Z(x_i, V / m) in every number, |x_i| <= radius, and at
least m remain, whichever drop out. So the sum holds noise of at least V.

What that costs is in `plait.features.privacy.sum_of_shares`. Knows no round and no ledger.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plait.adapters import Float32
from plait.errors import ConfigError
from plait.features.privacy.clip import clipped_to_grid
from plait.features.privacy.discrete import MOST_FRACTION_BITS, discrete_gaussian, entries_of
from plait.features.privacy.key import derived
from plait.features.privacy.noise import Integers, Keystream
from plait.features.privacy.sum_of_shares import SMOOTHING, least_variance

_MOST_RADIUS = 1 << 24
DEVIATIONS = 6.0
"""Of a sum, that its numbers may have without wrapping around."""
_MOST_ENTRIES = 1 << 23
"""Of a table of the noise, some hundred megabytes: its size follows from settings of the server's."""
_MOST_BEYOND = 1.5
"""A sum has at most this many times the guaranteed clients."""


@dataclass(frozen=True)
class Shares:
    """The grid of a round whose clients add noise.

    Attributes:
        radius: the clip norm, in units of 2^-fraction_bits; whole.
        fraction_bits: of the numbers around which is drawn.
        variance: V, of the noise that is guaranteed in the sum, in units of 1.
        guaranteed: m, the clients whose noise is in every sum of a full round.
    """

    radius: int
    fraction_bits: int
    variance: float
    guaranteed: int

    @property
    def sensitivity(self) -> float:
        """The clip norm, in units."""
        return self.radius / (1 << self.fraction_bits)

    def bits(self, clients: int, size: int) -> int:
        """Bits of a ring where a sum of this many clients' numbers does not wrap around, even if all agree."""
        spread = math.sqrt(_MOST_BEYOND * self.variance + (clients * self.sensitivity) ** 2 / size)
        return math.ceil(math.log2(2 * (DEVIATIONS * spread + 1)))

    def drawn(self, values: Float32, *, unit: float, guaranteed: int, key: bytes) -> NDArray[np.int64]:
        """What a client sends, (size,): whole numbers around its update.

        Args:
            values: the update, rotated, finite; clipped here.
            key: 32 bytes, of this client, attempt and update alone.
        """
        centres = clipped_to_grid(
            values,
            clip_norm=unit * self.sensitivity,
            radius=self.radius,
            key=derived(key, b"rounding"),
        )
        return self.around(centres, guaranteed=guaranteed, key=key)

    def around(self, centres: NDArray[np.int32] | Integers, *, guaranteed: int, key: bytes) -> Integers:
        """Noise around numbers in units of 2^-fraction_bits, of norm at most `radius`."""
        share = discrete_gaussian(self.variance / guaranteed, self.fraction_bits)
        return share.draw(Keystream(derived(key, b"noise of a share")), centres)


def shares_for(size: int, noise_multiplier: float, guaranteed: int) -> Shares:
    """The coarsest grid on which shares are good enough.

    Args:
        noise_multiplier: z: noise over clip norm that the sum is charged for.

    Raises:
        ConfigError: the noise is too small for any grid, or too large for a table.
    """
    sensitivity = math.sqrt(least_variance(guaranteed) - SMOOTHING) / noise_multiplier
    # As for the central grid, so that rounding to fractions hardly lengthens an update.
    wanted = 4 * math.sqrt(size)
    bits = min(MOST_FRACTION_BITS, max(0, math.ceil(math.log2(wanted / sensitivity))))
    radius = max(1, math.ceil(max(sensitivity, wanted / (1 << bits)) * (1 << bits)))
    if radius > _MOST_RADIUS:
        raise ConfigError(
            f"noise is {noise_multiplier:.3g} times the clip norm, expected more: no grid of shares is fine enough"
        )
    variance = (noise_multiplier * radius / (1 << bits)) ** 2 + SMOOTHING
    if entries_of(variance / guaranteed, bits) > _MOST_ENTRIES:
        raise ConfigError(
            f"noise is {noise_multiplier:.3g} times the clip norm for updates of {size:,} numbers, expected less: the "
            "table of a share of it would not fit into memory"
        )
    return Shares(radius, bits, variance, guaranteed)

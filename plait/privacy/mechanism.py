"""The private mean of a round: clipped updates on a grid, their sum, noise, and a fixed number that divides it.

    mean = unit (S + round(G)) / n,   G ~ N(0, (z radius)^2) in every number,   |x_k| <= radius

The clip norm is fixed or follows a quantile (Andrew et al., arXiv 1905.03871, algorithm 1). Under masks each client
adds a share of the noise (Kairouz, Liu and Steinke, arXiv 2102.06387). Why a client moves the sum by at most `radius`,
whatever its update is made of: docs/concepts/noise.md.
"""

import math
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plait.adapters import Float32
from plait.errors import ConfigError
from plait.guarantees import SMOOTHING, epsilon_of, least_variance, mu_at, sum_term
from plait.privacy.noise import (
    BLOCK,
    MOST_FRACTION_BITS,
    IntegerGaussian,
    Integers,
    Keystream,
    derived,
    discrete_gaussian,
    entries_of,
    gaussian,
)

_LEAST_RADIUS = 1 << 12
# The noise's table has about ten numbers for each unit of sigma.
_LARGEST_SIGMA = 1 << 17


@dataclass(frozen=True)
class Grid:
    """A grid on which the clip norm, the exact sensitivity of the sum, and sigma are so many units."""

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


_TRIES = 64
_LINEAR_TRIES = 4
_MARGIN = 1 - 1e-6
# What rounding adds to the square of a length, per number, where fractions are spread evenly.
_ADDED = 1 / 6


def length(values: Float32) -> float:
    """Euclidean norm, in float64."""
    return math.sqrt(sum(float(np.dot(part, part)) for part in _blocks(values)))


def clipped_to_grid(values: Float32, *, clip_norm: float, radius: int, key: bytes) -> NDArray[np.int32]:
    """The update in units of clip_norm / radius, (size,), of Euclidean norm at most `radius`, itself at most 2^17.

    Args:
        values: the decoded update, finite.
        key: 32 bytes; decides which way numbers are rounded.
    """
    room = math.sqrt(max(0.5, 1 - _ADDED * values.size / radius**2)) * (1 - 1e-4)
    scale = min(radius / clip_norm, radius * room / max(length(values), 1e-300))
    for attempt in range(_TRIES):
        integers, square = _rounded(values, scale, key)
        if square <= radius * radius:
            return integers
        # A long update's square follows the scale's square; that of many small numbers follows the scale.
        ratio = radius * radius / square
        scale *= _MARGIN * (math.sqrt(ratio) if attempt < _LINEAR_TRIES else ratio)
    return np.zeros(values.size, np.int32)


def _rounded(values: Float32, scale: float, key: bytes) -> tuple[NDArray[np.int32], float]:
    """The numbers, and the square of their length: exact, since float64 holds sums of whole numbers up to 2^53."""
    stream = Keystream(key)
    out = np.empty(values.size, np.int32)
    at, square = 0, 0.0
    for part in _blocks(values):
        rounded = np.floor(part * scale + stream.halves(part.size) * 2.0**-32)
        square += float(np.dot(rounded, rounded))
        out[at : at + part.size] = rounded
        at += part.size
    return out, square


def _blocks(values: Float32) -> Generator[NDArray[np.float64]]:
    for at in range(0, values.size, BLOCK):
        yield values[at : at + BLOCK].astype(np.float64)


RATE = 0.2
"""Of the paper's experiments."""

SHARE = 0.1
"""Largest part of a round's 1/z^2 that the count may take."""


_MOST_RADIUS = 1 << 24
DEVIATIONS = 6.0
"""Of a sum, that its numbers may have without wrapping around."""
_MOST_ENTRIES = 1 << 23
"""Of a table of the noise, some hundred megabytes: its size follows from settings of the server's."""
_MOST_BEYOND = 1.5
"""A sum has at most this many times the guaranteed clients."""


@dataclass(frozen=True)
class NoiseShares:
    """The grid of a round whose clients add noise."""

    radius: int  # the clip norm, in units of 2^-fraction_bits; whole
    fraction_bits: int  # of the numbers around which is drawn
    variance: float  # V, of the noise that is guaranteed in the sum, in units of 1
    guaranteed: int  # m, the clients whose noise is in every sum of a full round

    @property
    def sensitivity(self) -> float:
        """The clip norm, in units."""
        return self.radius / (1 << self.fraction_bits)

    def bits(self, clients: int, size: int) -> int:
        """Bits of a ring where a sum of this many clients' numbers does not wrap around, even if all agree."""
        spread = math.sqrt(_MOST_BEYOND * self.variance + (clients * self.sensitivity) ** 2 / size)
        return math.ceil(math.log2(2 * (DEVIATIONS * spread + 1)))

    def drawn(self, values: Float32, *, unit: float, guaranteed: int, key: bytes) -> NDArray[np.int64]:
        """What a client sends, (size,): around its clipped update; the key is of this attempt and update alone."""
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


def shares_for(size: int, noise_multiplier: float, guaranteed: int) -> NoiseShares:
    """The coarsest grid on which shares are good enough for noise of z times the clip norm."""
    sensitivity = math.sqrt(least_variance(guaranteed) - SMOOTHING) / noise_multiplier
    # As for the central grid, so that rounding to fractions hardly lengthens an update.
    wanted = 4 * math.sqrt(size)
    bits = min(MOST_FRACTION_BITS, max(0, math.ceil(math.log2(wanted / sensitivity))))
    radius = max(1, math.ceil(max(sensitivity, wanted / (1 << bits)) * (1 << bits)))
    if radius > _MOST_RADIUS:
        raise ConfigError(
            f"noise is {noise_multiplier:.3g} times the clip norm, too little: no grid of shares is fine enough"
        )
    variance = (noise_multiplier * radius / (1 << bits)) ** 2 + SMOOTHING
    if entries_of(variance / guaranteed, bits) > _MOST_ENTRIES:
        raise ConfigError(
            f"noise is {noise_multiplier:.3g} times the clip norm for updates of {size:,} numbers, too much: the "
            "table of a share of it would not fit into memory"
        )
    return NoiseShares(radius, bits, variance, guaranteed)


_PART_OF_LARGEST_STEP = 0.5

LARGEST_MULTIPLIER = 10_000
"""Noise over clip norm; the noise's table has about ten numbers for each unit."""


@dataclass(frozen=True)
class ClientPrivacy:
    """Client-level differential privacy of a run."""

    noise_multiplier: float  # z: a round costs what one Gaussian mechanism with noise of z times its sensitivity costs
    delta: float
    epsilon: float | None  # never exceeded; None for a run whose noise multiplier was given instead
    clients: int  # updates wanted in a round, which the sum is divided by
    clip_norm: float | None  # norm that updates are clipped to; None where it follows a quantile
    quantile: float  # of the updates' norms, for an adaptive clip norm
    # how far local training can move a number of the adapter in a round; the first adaptive clip norm follows from it,
    # and so from no client's data
    largest_step: float
    guaranteed: int = 0  # clients whose own noise is in every sum (see above); 0 where the server adds it

    @property
    def count_multiplier(self) -> float | None:
        """Noise of the count that moves an adaptive clip norm; None for a fixed one."""
        # The paper's n/20 on the sum of halves, and more where that costs over `SHARE`.
        noise = max(self.clients / 10, self.noise_multiplier / math.sqrt(SHARE))
        return noise if self.clip_norm is None else None

    @property
    def update_multiplier(self) -> float:
        """Noise of the sum of updates, over the clip norm; with that of the count it costs 1/z^2."""
        count = self.count_multiplier
        return self.noise_multiplier if count is None else 1 / math.sqrt(self.noise_multiplier**-2 - count**-2)

    @property
    def most_charges(self) -> float:
        """Rounds within the budget, infinite without one; a little more than a whole number if they just fit."""
        if self.epsilon is None:
            return math.inf
        most = mu_at(self.epsilon, self.delta) ** 2 * self.noise_multiplier**2 * (1 + 1e-9)
        if self.guaranteed and most >= 1 and self.epsilon_after(int(most)) > self.epsilon * (1 + 1e-9):
            return int(most) - 1
        return most

    def epsilon_after(self, charges: int, *, colluding: int = 0) -> float:
        """Epsilon of this many rounds, where some guaranteed clients reveal their noise, or add none."""
        return epsilon_of(self.delta, charges, self.noise_multiplier, guaranteed=self.guaranteed, colluding=colluding)

    def first_clip(self, size: int) -> float:
        """The clip norm of round 1, for updates of `size` numbers."""
        if self.clip_norm is not None:
            return self.clip_norm
        return _PART_OF_LARGEST_STEP * self.largest_step * math.sqrt(size)

    def shares(self, size: int) -> NoiseShares:
        """The grid of clients' own noise, for updates of `size` numbers."""
        return shares_for(size, self.update_multiplier, self.guaranteed)

    @property
    def count_shares(self) -> NoiseShares | None:
        """The same for the count that moves an adaptive clip norm."""
        count = self.count_multiplier
        return None if count is None else shares_for(1, count, self.guaranteed)

    def next_clip(self, clip_norm: float, counted: float, clients: int) -> float:
        """The clip norm of the next round, by the noised count of clients within this one less those without."""
        if self.clip_norm is not None:
            return clip_norm
        fraction = min(max(0.5 + counted / (2 * clients), -1.0), 2.0)
        return clip_norm * math.exp(-RATE * (fraction - self.quantile))

    def noise_over_clip(self, size: int) -> float:
        """Expected norm of the noise in a round's mean of `size` numbers, over the clip norm, without dropouts."""
        central = self.update_multiplier * math.sqrt(size) / self.clients
        if not self.guaranteed:
            return central
        shares = self.shares(size)
        sigma = math.sqrt(shares.variance * self.clients / self.guaranteed)
        return central * sigma / (self.update_multiplier * shares.sensitivity)


def multiplier_for(epsilon: float, delta: float, rounds: int, *, guaranteed: int = 0) -> float:
    """The noise multiplier with which `rounds` rounds just fit (epsilon, delta)."""
    apart = rounds * sum_term(guaranteed) if guaranteed else 0.0
    multiplier = math.sqrt(rounds) / mu_at(epsilon - 2 * apart, delta * math.exp(-apart))
    if multiplier > LARGEST_MULTIPLIER:
        raise ConfigError(
            f"dp-epsilon is {epsilon:g} and rounds is {rounds:,}, which takes noise of {multiplier:.3g} times the clip "
            f"norm in each, expected at most {LARGEST_MULTIPLIER:,}: give a larger epsilon or fewer rounds"
        )
    return multiplier


class PrivateMean:
    """Takes the updates of a round one by one; the 32 bytes of `key` are of this round and these updates.

    Where clients add the noise it stands for as many as are guaranteed, in one process and without masks: for audits.
    """

    def __init__(self, privacy: ClientPrivacy, *, size: int, clip_norm: float, key: bytes) -> None:
        self._privacy, self._clip_norm, self._key = privacy, clip_norm, key
        self._grid = privacy.shares(size) if privacy.guaranteed else grid_for(size, privacy.update_multiplier)
        self._sum = np.zeros(size, np.int64)
        self._within = 0

    def add(self, client: str, values: Float32) -> None:
        """Add the update of a client, (size,), as decoded, finite; each client at most once."""
        key = derived(self._key, b"rounding of " + client.encode())
        self._sum += clipped_to_grid(values, clip_norm=self._clip_norm, radius=self._grid.radius, key=key)
        if self._privacy.clip_norm is None:
            self._within += 1 if length(values) <= self._clip_norm else -1

    def finish(self) -> tuple[Float32, float]:
        """The noised mean, and the clip norm of the next round; the sum without noise is gone afterwards."""
        grid, privacy = self._grid, self._privacy
        if isinstance(grid, NoiseShares):
            self._sum = self._shared(grid, self._sum, b"updates")
            unit = self._clip_norm / grid.sensitivity
        else:
            noise, stream = gaussian(grid.sigma), Keystream(derived(self._key, b"noise on the sum"))
            for at in range(0, self._sum.size, BLOCK):
                part = self._sum[at : at + BLOCK]
                part += noise.draw(stream, part.size)
            unit = grid.unit(self._clip_norm)
        mean = (self._sum * (unit / privacy.clients)).astype(np.float32)
        return mean, privacy.next_clip(self._clip_norm, self._counted(), privacy.clients)

    def _counted(self) -> float:
        """The noised count of updates within the clip norm less those without; 0 for a fixed one."""
        sigma = self._privacy.count_multiplier
        if sigma is None:
            return 0.0
        if self._privacy.guaranteed and (counting := self._privacy.count_shares):
            (counted,) = self._shared(counting, np.array([self._within * counting.radius]), b"count")
            return float(counted) / counting.sensitivity
        stream = Keystream(derived(self._key, b"noise on the count"))
        return self._within + int(IntegerGaussian(sigma).draw(stream, 1)[0])

    def _shared(self, shares: NoiseShares, centres: Integers, purpose: bytes) -> Integers:
        """Guaranteed clients' noise around the sum, and around nothing for every further client."""
        total = np.zeros(centres.size, np.int64)
        for number in range(shares.guaranteed):
            key = derived(self._key, purpose + number.to_bytes(4, "big"))
            of_one = centres if number == 0 else np.zeros_like(centres)
            total += shares.around(of_one, guaranteed=shares.guaranteed, key=key)
        return total

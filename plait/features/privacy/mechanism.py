"""The private mean of a round: clipped updates on a grid, their sum, noise, and a fixed number that divides it.

With S = sum_k x_k over the accepted updates and n the number of clients that a round wants,

    mean = unit (S + round(G)) / n,   G ~ N(0, (z radius)^2) in every number,   |x_k| <= radius

*A client changes each round by at most the clip norm, whatever state it hides.* Take two runs that differ only in
that one client's updates are replaced by zero, and look at a round after the same results of all rounds before. The
others' updates are functions of their own data, of their own state, and of these results (broadcasts are made of
nothing else), so they are the same in both runs, bit for bit. So is the rest of the sum: n is a constant, updates
have equal weights, and whether an update counts is decided by it alone. What is left is the one client's x_k,
whatever it was made of (error feedback, moments, drift, a leading gain, a lie), and |x_k| <= radius holds for the
very numbers that are summed. So the sum moves by at most `radius` and the mechanism is 1/z-Gaussian differentially
private; later rounds compose adaptively. Everything after it (rule, server optimizer, encoding, broadcast, adapter) is
computed from the mean and costs nothing.

Clipping before error feedback would not do: what a client sends is Q(d + e), and gain and residual can make that far
longer than d. Knows no rule, no file and no ledger.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from plait.adapters import Float32
from plait.errors import ConfigError
from plait.features.privacy.accountant import mu_at
from plait.features.privacy.clip import clipped_to_grid, length
from plait.features.privacy.grid import Grid, grid_for
from plait.features.privacy.key import derived
from plait.features.privacy.noise import BLOCK, IntegerGaussian, Integers, Keystream, gaussian
from plait.features.privacy.quantile import count_multiplier, next_clip, update_multiplier
from plait.features.privacy.shares import Shares, shares_for
from plait.features.privacy.sum_of_shares import epsilon_of, sum_term

_PART_OF_LARGEST_STEP = 0.5

LARGEST_MULTIPLIER = 10_000
"""Noise over clip norm; the noise's table has about ten numbers for each unit."""


@dataclass(frozen=True)
class ClientPrivacy:
    """Client-level differential privacy of a run.

    Attributes:
        noise_multiplier: z: a round costs what one Gaussian mechanism with noise of z times its sensitivity costs.
        epsilon: never exceeded; None for a run whose noise multiplier was given instead.
        clients: updates wanted in a round, which the sum is divided by.
        clip_norm: norm that updates are clipped to; None where it follows a quantile.
        quantile: of the updates' norms, for an adaptive clip norm.
        largest_step: how far local training can move a number of the adapter in a round; the first adaptive clip norm
            follows from it, and so from no client's data.
        guaranteed: clients whose own noise is in every sum (see `shares`); 0 where the server adds it.
    """

    noise_multiplier: float
    delta: float
    epsilon: float | None
    clients: int
    clip_norm: float | None
    quantile: float
    largest_step: float
    guaranteed: int = 0

    @property
    def count_multiplier(self) -> float | None:
        """Noise of the count that moves an adaptive clip norm; None for a fixed one."""
        return None if self.clip_norm is not None else count_multiplier(self.noise_multiplier, self.clients)

    @property
    def update_multiplier(self) -> float:
        """Noise of the sum of updates, over the clip norm."""
        count = self.count_multiplier
        return self.noise_multiplier if count is None else update_multiplier(self.noise_multiplier, count)

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
        """Epsilon of this many rounds.

        Args:
            colluding: of the guaranteed clients, who tell what noise they added, or add none.
        """
        return epsilon_of(self.delta, charges, self.noise_multiplier, guaranteed=self.guaranteed, colluding=colluding)

    def first_clip(self, size: int) -> float:
        """The clip norm of round 1, for updates of `size` numbers."""
        if self.clip_norm is not None:
            return self.clip_norm
        return _PART_OF_LARGEST_STEP * self.largest_step * math.sqrt(size)

    def grid(self, size: int) -> Grid:
        """The grid for updates of `size` numbers."""
        return grid_for(size, self.update_multiplier)

    def shares(self, size: int) -> Shares:
        """The grid of clients' own noise, for updates of `size` numbers."""
        return shares_for(size, self.update_multiplier, self.guaranteed)

    @property
    def count_shares(self) -> Shares | None:
        """The same for the count that moves an adaptive clip norm."""
        count = self.count_multiplier
        return None if count is None else shares_for(1, count, self.guaranteed)

    def next_clip(self, clip_norm: float, counted: float, clients: int) -> float:
        """The clip norm of the next round."""
        if self.clip_norm is not None:
            return clip_norm
        return next_clip(clip_norm, 0.5 + counted / (2 * clients), self.quantile)

    def noise_over_clip(self, size: int) -> float:
        """Expected norm of the noise in a round's mean of `size` numbers, over the clip norm, without dropouts."""
        central = self.update_multiplier * math.sqrt(size) / self.clients
        if not self.guaranteed:
            return central
        shares = self.shares(size)
        sigma = math.sqrt(shares.variance * self.clients / self.guaranteed)
        return central * sigma / (self.update_multiplier * shares.sensitivity)


def multiplier_for(epsilon: float, delta: float, rounds: int, *, guaranteed: int = 0) -> float:
    """The noise multiplier with which `rounds` rounds just fit (epsilon, delta).

    Args:
        guaranteed: clients whose own noise is in every sum; 0 where the server adds it.

    Raises:
        ConfigError: it would leave nothing of any update.
    """
    apart = rounds * sum_term(guaranteed) if guaranteed else 0.0
    multiplier = math.sqrt(rounds) / mu_at(epsilon - 2 * apart, delta * math.exp(-apart))
    if multiplier > LARGEST_MULTIPLIER:
        raise ConfigError(
            f"dp-epsilon is {epsilon:g} and rounds is {rounds:,}, which takes noise of {multiplier:.3g} times the clip "
            f"norm in each, expected at most {LARGEST_MULTIPLIER:,}: give a larger epsilon or fewer rounds"
        )
    return multiplier


@dataclass(frozen=True, eq=False)
class Released:
    """What a private round gives to the world."""

    mean: Float32
    clip_norm: float


class PrivateMean:
    """Takes the updates of a round one by one.

    Args:
        key: of this round and these updates, 32 bytes.
    """

    def __init__(self, privacy: ClientPrivacy, *, size: int, clip_norm: float, key: bytes) -> None:
        self._privacy = privacy
        self._grid = privacy.grid(size)
        self._clip_norm = clip_norm
        self._key = key
        self._sum = np.zeros(size, np.int64)
        self._within = 0

    def add(self, client: str, values: Float32) -> None:
        """Add an update.

        Args:
            client: its name; each at most once.
            values: as decoded, (size,), finite.
        """
        key = derived(self._key, b"rounding of " + client.encode())
        self._sum += clipped_to_grid(values, clip_norm=self._clip_norm, radius=self._grid.radius, key=key)
        if self._privacy.clip_norm is None:
            self._within += 1 if length(values) <= self._clip_norm else -1

    def join(self, numbers: Integers) -> None:
        """Add the sum of a region's clipped updates, (size,), in units of the grid (`clipped_sum`)."""
        self._sum += numbers

    def finish(self) -> Released:
        """Add the noise; the sum without it is gone afterwards."""
        noise = gaussian(self._grid.sigma)
        stream = Keystream(derived(self._key, b"noise on the sum"))
        for at in range(0, self._sum.size, BLOCK):
            part = self._sum[at : at + BLOCK]
            part += noise.draw(stream, part.size)
        scale = self._grid.unit(self._clip_norm) / self._privacy.clients
        return Released((self._sum * scale).astype(np.float32), self._next_clip())

    def _next_clip(self) -> float:
        sigma = self._privacy.count_multiplier
        if sigma is None:
            return self._clip_norm
        stream = Keystream(derived(self._key, b"noise on the count"))
        counted = self._within + int(IntegerGaussian(sigma).draw(stream, 1)[0])
        return self._privacy.next_clip(self._clip_norm, counted, self._privacy.clients)

"""The arithmetic of what a run promises: what noise costs, and how many clients a masked sum needs.

Epsilon of Gaussian mechanisms, of Poisson-sampled steps and of sums of clients' noise is by Google's dp-accounting.
Composition: Dong, Roth and Su, arXiv 1905.02383; exact epsilon: Balle and Wang, arXiv 1805.06530, theorem 8; sampled
steps: Doroshenko et al., arXiv 2207.04380; sums: Kairouz, Liu and Steinke, arXiv 2102.06387. The proofs, and the
symbols used here, are in docs/concepts/noise.md. The clients of a masked sum follow from the size of its round: for its
groups, its sums and against colluders.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

from plait.errors import ConfigError

_LARGEST_EPSILON = 1e6
# Beyond the tolerance of the library's search.
_SAFE = 1e-11


def _library():
    import dp_accounting  # only runs with differential privacy need it, and what it imports takes a second

    return dp_accounting


def epsilon_at(delta: float, mu: float) -> float:
    """The smallest epsilon for a delta, rounded up in its last digits; mu is the root of the sum of 1/z^2."""
    if not mu or not math.isfinite(mu):
        return mu
    return float(_library().get_epsilon_gaussian(1 / mu, delta)) * (1 + _SAFE)


def mu_at(epsilon: float, delta: float) -> float:
    """The largest mu within (epsilon, delta), rounded down in its last digits."""
    if not 0 < epsilon <= _LARGEST_EPSILON:
        raise ConfigError(f"epsilon is {epsilon:g}, expected more than 0 and at most {_LARGEST_EPSILON:g}")
    if not 0 < delta < 1:
        raise ConfigError(f"delta is {delta:g}, expected more than 0 and less than 1")
    return (1 - 10 * _SAFE) / float(_library().get_sigma_gaussian(epsilon, delta))


LARGEST_NOISE = 10_000.0
"""Noise multiplier beyond which nothing of any gradient is left."""

_CELLS = 1 << 16
_COARSEST = 1e-4
_CELLS_OF_SPREAD = 500
# P(N(0, 1) > 8.5) is below 1e-17.
_REACH = 8.5
_LARGEST_EXPONENT = 12.0
_LEAST_NOISE = 0.05


@lru_cache(maxsize=4096)
def sampled_epsilon(noise: float, rate: float, steps: int, delta: float) -> float:
    """The smallest epsilon that is certain for this many steps with noise z and rate q, more than 0 and at most 1."""
    if not steps:
        return 0.0
    whole = epsilon_at(delta, math.sqrt(steps) / noise)
    if rate >= 1 or noise < _LEAST_NOISE:
        # Without a sample, or next to it, the closed form is exact, or near and never too small.
        return whole
    library = _library()
    accountant = library.pld.PLDAccountant(value_discretization_interval=_cell(noise, rate, steps))
    accountant.compose(library.PoissonSampledDpEvent(rate, library.GaussianDpEvent(noise)), steps)
    return min(whole, float(accountant.get_epsilon(delta)))


@lru_cache(maxsize=1024)
def noise_for(epsilon: float, delta: float, rate: float, steps: int) -> float:
    """The noise multiplier with which this many steps just fit (epsilon, delta), rounded up in the fourth digit."""
    low, high = _LEAST_NOISE, 1.0
    while sampled_epsilon(high, rate, steps, delta) > epsilon:
        low, high = high, 2 * high
        if high > LARGEST_NOISE:
            raise ConfigError(
                f"dp-epsilon is {epsilon:g} and steps are {steps:,}, which takes noise of more than "
                f"{LARGEST_NOISE:,.0f} times the clip norm in each: give a larger epsilon or fewer steps"
            )
    while high - low > 5e-4 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if sampled_epsilon(middle, rate, steps, delta) <= epsilon else (middle, high)
    return high


def _cell(noise: float, rate: float, steps: int) -> float:
    """The size of a cell: a small part of the spread of the sum, and coarse enough for all of it to fit the grid."""
    spread = math.sqrt(steps) * rate * math.sqrt(math.expm1(min(noise**-2, _LARGEST_EXPONENT)))
    furthest = _REACH * noise + 1
    width = _loss(furthest, noise, rate) - _loss(-furthest, noise, rate)
    return max(min(_COARSEST, spread / _CELLS_OF_SPREAD), max(2 * _REACH * spread, width) / _CELLS)


def _loss(x: float, noise: float, rate: float) -> float:
    """The loss at x where a contribution is removed: log((1 - q) + q exp((2 x - 1) / (2 z^2)))."""
    exponent = math.log(rate) + (2 * x - 1) / (2 * noise**2)
    larger, smaller = max(math.log1p(-rate), exponent), min(math.log1p(-rate), exponent)
    return larger + math.log1p(math.exp(smaller - larger))


SMOOTHING = 2.5
"""s: the part of the variance that is not counted."""
_LEAST_SHARE = 5.0
_LEAST_SUM = 256.0
_MOST_NUMBERS = 1 << 32


def least_variance(guaranteed: int) -> float:
    """The least V of so many shares."""
    return max(_LEAST_SHARE * guaranteed, _LEAST_SUM)


def sum_term(guaranteed: int) -> float:
    """The d eta of a round: how far any sum of shares is from a Gaussian mechanism, as a logarithm."""
    tau = 10 * sum(math.exp(-2 * math.pi**2 * _LEAST_SHARE * j / (j + 1)) for j in range(1, guaranteed))
    return _MOST_NUMBERS * (tau + 2.001 * math.exp(-2 * math.pi**2 * SMOOTHING))


def epsilon_of(
    delta: float, charges: int, noise_multiplier: float, *, guaranteed: int = 0, colluding: int = 0
) -> float:
    """Epsilon of so many rounds with this noise multiplier; 0 guaranteed clients where the server adds it."""
    if not guaranteed:
        return epsilon_at(delta, math.sqrt(charges) / noise_multiplier)
    # What is left where the noise of some clients is known, or was never added.
    least = least_variance(guaranteed)
    left = least * max(0, guaranteed - colluding) / guaranteed - SMOOTHING
    multiplier = noise_multiplier * math.sqrt(max(left, 0.0) / (least - SMOOTHING))
    if not multiplier:
        return math.inf
    apart = charges * sum_term(guaranteed)
    return epsilon_at(delta * math.exp(-apart), math.sqrt(charges) / multiplier) + 2 * apart


LEAST_GROUP = 8
"""Clients of a group at least: a sum of fewer reveals too much of each."""
LEAST_GROUPS, MOST_GROUPS = 3, 8
COMPLETE = 256
"""The most clients that are all each other's neighbours."""
LEAST_CLIENTS = 3
"""In a sum of two each client knows the other's part."""


def groups_for(clients: int) -> int:
    """Groups of a round of so many; 1 where there are too few for a median of groups."""
    count = min(MOST_GROUPS, clients // LEAST_GROUP)
    return count if count >= LEAST_GROUPS else 1


def threshold_of(count: int) -> int:
    """Two thirds of this many: two groups that large share an honest member while fewer than a third collude."""
    return -(-2 * count // 3)


def least_survivors(clients: int) -> int:
    """The fewest clients in a sum of a roster of this size."""
    return max(LEAST_CLIENTS, threshold_of(clients))


def least_roster(invited: int) -> int:
    """The fewest clients of a roster whose sums have as many as those of a roster of two thirds of the invited."""
    fewest = least_survivors(least_survivors(invited))
    return next(
        count for count in range(LEAST_CLIENTS, max(invited, LEAST_CLIENTS) + 1) if least_survivors(count) >= fewest
    )


def colluding(clients: int) -> int:
    """The most clients of a roster of this size that the server gains nothing from (see `plait.wire.masked_roster`).

    One more could get two lists signed, or be all but one in a sum. Above `COMPLETE` it is what the chance is added up
    for.
    """
    least = least_survivors(clients)
    return min(2 * least - clients - 1, least - 2) if clients <= COMPLETE else clients // 10


@dataclass(frozen=True)
class Thresholds:
    """What protects the clients of a round, whatever its server does."""

    roster: int  # the fewest clients that a sum begins with: two thirds of a group
    survivors: int  # the fewest clients in a sum: two thirds of these
    colluding: int  # the most clients that gain nothing from helping the server; it may put them all into one group

    @classmethod
    def of(cls, invited: int, groups: int = 1) -> Self:
        """Those of a round, or an evaluation, of so many."""
        roster, most = least_survivors(invited // groups), -(-invited // groups)
        # An evaluation may begin with one client less.
        sizes = range(least_roster(invited // groups), max(most, LEAST_CLIENTS) + 1)
        return cls(roster, least_survivors(roster), min(map(colluding, sizes)))

"""Epsilon of Gaussian mechanisms on Poisson samples: DP-SGD, composed numerically by Google's dp-accounting.

In each step every record is in the batch with probability q, independently, and Gaussian noise of z times the largest
contribution of a record is added to the sum. With one record's contribution replaced by zero, a step's result is
N(0, z^2) instead of (1 - q) N(0, z^2) + q N(1, z^2), or the other way round. The library puts the privacy loss on a
grid so that it dominates the true one (Doroshenko et al., "Connect the Dots", arXiv 2207.04380) and composes it by the
fast Fourier transform (Koskela et al., arXiv 1906.03049). Nothing is claimed that is not earned: batches must be drawn
this way from secret randomness; shuffled epochs are not (Chua et al., arXiv 2403.17673). Knows no data.
"""

from __future__ import annotations

import math
from functools import lru_cache

from plait.errors import ConfigError
from plait.features.privacy.accountant import epsilon_at

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
    """The smallest epsilon that is certain for this many steps.

    Args:
        noise: z, more than 0.
        rate: q, more than 0 and at most 1.
        steps: 0 or more.
        delta: more than 0 and less than 1.
    """
    if not steps:
        return 0.0
    whole = epsilon_at(delta, math.sqrt(steps) / noise)
    if rate >= 1 or noise < _LEAST_NOISE:
        # Without a sample, or next to it, the closed form is exact, or near and never too small.
        return whole
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(value_discretization_interval=_cell(noise, rate, steps))
    accountant.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(noise)), steps)
    return min(whole, float(accountant.get_epsilon(delta)))


@lru_cache(maxsize=1024)
def noise_for(epsilon: float, delta: float, rate: float, steps: int) -> float:
    """The noise multiplier with which this many steps just fit (epsilon, delta), rounded up in the fourth digit.

    Raises:
        ConfigError: it would leave nothing of any gradient.
    """
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

"""Epsilon of Gaussian mechanisms, composed, in closed form.

A mechanism that adds Gaussian noise of z times its sensitivity is mu-Gaussian differentially private with mu = 1/z, and
mechanisms compose by adding mu^2, also where a later one depends on the results of earlier ones (Dong, Roth and Su,
"Gaussian Differential Privacy", arXiv 1905.02383, theorem 3.2 and corollary 3.3). Then, for every epsilon,

    delta(epsilon) = Phi(-epsilon/mu + mu/2) - exp(epsilon) Phi(-epsilon/mu - mu/2)

(corollary 2.13; Balle and Wang, arXiv 1805.06530, theorem 8). This is exact: Renyi accounting of the same mechanisms
reads about 8 % higher. No amplification by sampling is claimed. Knows no round and no ledger.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from plait.errors import ConfigError

_STEPS = 200
_ROOT = math.sqrt(2 * math.pi)
# Beyond this the error function is too small for exp(x^2 / 2) times it to be exact.
_FAR = 5.0
_TERMS = 200
_LARGEST_EPSILON = 1e6


def delta_at(epsilon: float, mu: float) -> float:
    """The smallest delta for an epsilon.

    Args:
        epsilon: at least 0.
        mu: root of the sum of 1/z^2, at least 0.
    """
    if mu <= 0:
        return 0.0
    low, high = epsilon / mu - mu / 2, epsilon / mu + mu / 2
    # exp(epsilon) phi(high) = phi(low), so exp(epsilon), which may be huge, is never needed.
    return max(0.0, _upper_tail(low) - _density(low) * _mills(high))


def epsilon_at(delta: float, mu: float) -> float:
    """The smallest epsilon for a delta, rounded up in its last digits.

    Args:
        delta: more than 0 and less than 1.
        mu: root of the sum of 1/z^2; the result is infinite if it is.
    """
    if not math.isfinite(mu):
        return math.inf
    if delta_at(0.0, mu) <= delta:
        return 0.0
    return _first(lambda epsilon: delta_at(epsilon, mu) <= delta, mu * mu / 2 + mu)


def mu_at(epsilon: float, delta: float) -> float:
    """The largest mu within (epsilon, delta), rounded down in its last digits.

    Raises:
        ConfigError: one of them is out of range.
    """
    if not 0 < epsilon <= _LARGEST_EPSILON:
        raise ConfigError(f"epsilon is {epsilon:g}, expected more than 0 and at most {_LARGEST_EPSILON:g}")
    if not 0 < delta < 1:
        raise ConfigError(f"delta is {delta:g}, expected more than 0 and less than 1")
    return _first(lambda mu: delta_at(epsilon, mu) > delta, 1.0) * (1 - 1e-12)


def _first(holds: Callable[[float], bool], guess: float) -> float:
    """The smallest positive number from which on `holds`, by bisection."""
    low, high = 0.0, guess
    while not holds(high):
        low, high = high, 2 * high
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _density(x: float) -> float:
    return math.exp(-x * x / 2) / _ROOT


def _upper_tail(x: float) -> float:
    return math.erfc(x / math.sqrt(2)) / 2


def _mills(x: float) -> float:
    """The upper tail over the density, for x >= 0 (Laplace's continued fraction where x is large)."""
    if x < _FAR:
        return _upper_tail(x) / _density(x)
    value = x
    for term in range(_TERMS, 0, -1):
        value = x + term / value
    return 1 / value

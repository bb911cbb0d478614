"""Epsilon of Gaussian mechanisms on Poisson samples by a second implementation, to compare dp-accounting's with.

The privacy loss of a step is put on a grid so that its curve of delta over e^epsilon is joined by chords (arXiv
2207.04380), and composed by the fast Fourier transform (arXiv 1906.03049).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_CELLS = 1 << 18
_COARSEST = 1e-4
# What is cut off at both ends of the sum is added to delta, at most this part of it.
_CUT = 1e-3
# P(N(0, 1) > 8.5) is below 1e-17; what lies beyond counts as an infinite loss.
_REACH = 8.5
_CELLS_OF_SPREAD = 2000
_LARGEST_EXPONENT = 12.0
_STEPS = 60


@dataclass(frozen=True)
class Losses:
    """A privacy loss on a grid.

    Attributes:
        first: the smallest loss, in cells.
        masses: probability of each further loss.
        infinite: probability of an infinite one.
    """

    first: int
    masses: Floats
    infinite: float


def epsilon_of_samples(noise: float, rate: float, steps: int, delta: float) -> float:
    """The smallest epsilon, for rates below 1, where a record is removed or added."""
    return max(_composed_epsilon(noise, rate, steps, delta, removed) for removed in (True, False))


def _composed_epsilon(noise: float, rate: float, steps: int, delta: float, removed: bool) -> float:
    cell = _cell(noise, rate, steps)
    one = _losses(noise, rate, cell, removed=removed)
    total = _composed(one, steps, cut=_CUT * delta)
    values = (total.first + np.arange(len(total.masses))) * cell
    if total.infinite >= delta:
        return math.inf

    def delta_at(epsilon: float) -> float:
        above = values > epsilon
        return total.infinite + float(np.dot(total.masses[above], -np.expm1(epsilon - values[above])))

    low, high = 0.0, max(cell, float(values[-1]))
    if delta_at(0.0) <= delta:
        return 0.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if delta_at(middle) <= delta else (middle, high)
    return high


def _cell(noise: float, rate: float, steps: int) -> float:
    """The size of a cell: a small part of the spread of the sum, and coarse enough for all of it to fit the grid."""
    spread = math.sqrt(steps) * rate * math.sqrt(math.expm1(min(noise**-2, _LARGEST_EXPONENT)))
    low, high = _ends(noise, rate)
    return max(min(_COARSEST, spread / _CELLS_OF_SPREAD), max(2 * _REACH * spread, high - low) / _CELLS)


def _ends(noise: float, rate: float) -> tuple[float, float]:
    """The losses of one step far out on both sides."""
    furthest = _REACH * noise + 1
    return _loss(-furthest, noise, rate), _loss(furthest, noise, rate)


def _losses(noise: float, rate: float, cell: float, *, removed: bool) -> Losses:
    """The loss of one step, so that at the edges of cells delta over e^epsilon is exact, and above it in between."""
    ends = _ends(noise, rate)
    low, high = ends if removed else (-ends[1], -ends[0])
    first, last = math.floor(low / cell) - 1, math.ceil(high / cell) + 1
    epsilons: Floats = np.arange(first, last + 1, dtype=np.float64) * cell
    ratios = np.exp(epsilons)
    curve = _curve(epsilons, noise, rate, removed=removed)
    slopes = np.diff(curve) / np.diff(ratios)
    # To the left of the first edge the curve is 1 - e^epsilon, to the right of the last it is flat.
    bends = np.diff(np.concatenate([[-1.0], slopes, [0.0]]))
    masses = np.maximum(bends, 0.0) * ratios
    return Losses(first, masses, max(0.0, float(curve[-1]), 1.0 - float(masses.sum())))


def _loss(x: float, noise: float, rate: float) -> float:
    """The loss at x where a contribution is removed: log((1 - q) + q exp((2 x - 1) / (2 z^2)))."""
    return float(np.logaddexp(math.log1p(-rate), math.log(rate) + (2 * x - 1) / (2 * noise**2)))


def _curve(epsilons: Floats, noise: float, rate: float, *, removed: bool) -> Floats:
    """Delta at each epsilon of one step."""
    signed = epsilons if removed else -epsilons
    # Where the loss is epsilon; nowhere if the ratio is below 1 - q.
    beyond = np.exp(signed) - (1 - rate)
    with np.errstate(divide="ignore", invalid="ignore"):
        x = np.where(beyond > 0, noise**2 * (np.log(np.maximum(beyond, 1e-300)) - math.log(rate)) + 0.5, -np.inf)
    if removed:
        without = _upper(x / noise)
        with_it = (1 - rate) * without + rate * _upper((x - 1) / noise)
        return np.maximum(with_it - np.exp(epsilons) * without, 0.0)
    without = _upper(-x / noise)
    with_it = (1 - rate) * without + rate * _upper((1 - x) / noise)
    return np.maximum(without - np.exp(epsilons) * with_it, 0.0)


def _upper(x: Floats) -> Floats:
    """P(N(0, 1) > x)."""
    return np.fromiter(map(math.erfc, (x / math.sqrt(2)).tolist()), np.float64, len(x)) / 2


def _composed(one: Losses, steps: int, *, cut: float) -> Losses:
    """The sum of so many independent losses."""
    infinite = -math.expm1(steps * math.log1p(-one.infinite)) if one.infinite < 1 else 1.0
    low, high = _bounds(one, steps, cut=cut)
    size = 1 << max(1, (max(high - low, len(one.masses)) + 1).bit_length())
    padded = np.zeros(size)
    padded[: len(one.masses)] = one.masses
    # Whatever lies outside the window wraps around; it is at most `cut`, and counted as infinite besides.
    rolled = np.fft.irfft(np.fft.rfft(padded) ** steps, size)
    offset = (low - steps * one.first) % size
    masses = np.maximum(np.roll(rolled, -offset)[: high - low + 1], 0.0)
    return Losses(low, masses, infinite + cut)


def _bounds(one: Losses, steps: int, *, cut: float) -> tuple[int, int]:
    """The sums between which all but `cut` of the probability lies, in cells (Chernoff)."""
    values = one.first + np.arange(len(one.masses))
    some = one.masses > 0
    values, logs = values[some], np.log(one.masses[some])
    mean = float(np.dot(one.masses[some], values))
    deviation = math.sqrt(max(float(np.dot(one.masses[some], (values - mean) ** 2)), 1.0) * steps)
    # From where the largest loss decides to where the spread does: with rare large losses these are far apart.
    widest = max(1.0, float(np.abs(values[[0, -1]]).max()))
    orders = [sign * float(each) for each in np.geomspace(2 / widest, 64 / deviation, 20) for sign in (1, -1)]
    reach = math.log(2 / cut)
    low, high = steps * int(values[0]), steps * int(values[-1])
    for order in orders:
        exponents = logs + order * values
        top = float(exponents.max())
        moment = top + math.log(float(np.exp(exponents - top).sum()))
        edge = (steps * moment + reach) / order
        if order > 0:
            high = min(high, math.ceil(edge))
        else:
            low = max(low, math.floor(edge))
    return low, max(high, low + 1)

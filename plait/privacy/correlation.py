"""Noise that takes back a part of the noise of the rounds before, where clients rest between two rounds of theirs.

An adapter is the sum of all rounds so far, so what matters is the noise of sums. Let x_t be the sum of a round's
clipped updates in whole numbers, z_t Gaussian noise, independent in every round, and C a lower triangular matrix with
the same numbers c_0 = 1, c_1, c_2, ... in every column. Released is

    y_t = sum_j c_j x_(t-j) + z_t,   in the form   C^-1 y = x + C^-1 z

(the matrix mechanism: McMahan et al., "A Hassle-free Algorithm for Private Learning in Practice: Don't Use Tree
Aggregation, Use BLTs", arXiv 2408.08868; Dvijotham et al., arXiv 2404.16706). The c_j follow two sequences that fall
geometrically, as a buffered linear Toeplitz matrix with two buffers has them, and are 0 from the separation b on: a
band (Choquette-Choo et al., arXiv 2306.08153).

*Sensitivity.* A client that takes part in rounds at least b apart moves y by C v, where v has a part of length at most
1 (in clip norms) in each of these rounds. By the band no two of these parts move the same y_t, so they are orthogonal
and |C v|^2 is at most the sum of the squared lengths of those columns of C. Columns get shorter towards the last
round, so the most is reached by rounds 1, b + 1, 2 b + 1, ...: exact, for updates in any direction, also if a client
chooses them after it has seen earlier releases (Denisov et al., arXiv 2202.08312, theorem 2.1).

*Whole numbers.* The c_j are m_j / 2^s with whole m_j, and z_t is on a grid 2^s times as fine as the updates'. So all
of y is on that grid, and y = round(C x + G), G Gaussian: the exact mechanism, rounded afterwards. From y everybody
could make

    x'_t = y_t - round(sum_{j>0} m_j x'_(t-j) / 2^s)

by arithmetic of whole numbers, so x' tells no more than y. The m_j x_(t-j) of the updates are whole multiples of the
fine unit and go through the rounding unchanged, so that x'_t = x_t + n_t with

    n_t = z_t - round(sum_{j>0} m_j n_(t-j) / 2^s),

which needs no update of earlier rounds: only their noise, which follows from its keys. Knows no round's updates.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from plait.errors import ConfigError

if TYPE_CHECKING:
    from plait.privacy.noise import Integers

MOST_ROUNDS = 1_000
"""Each round makes the noise of all rounds before again."""

LEAST_GAIN = 1.01
"""Below it independent noise does as well."""

_SHIFT = 4
_ITERATIONS = 150
_START = (0.2, 0.4, 0.4, 0.9)
_STEPS = (0.1, 0.2, 0.1, -0.1)

_Point = tuple[float, ...]


@dataclass(frozen=True)
class Correlation:
    """How the noise of a run's rounds is correlated.

    Attributes:
        coefficients: m_0 = 2^shift, m_1, ..., at most `separation`; only m_0 for independent noise.
        shift: the noise's grid is 2^shift times as fine as the updates'.
        separation: a client that takes part in a round does so again this many rounds later at the earliest.
        rounds: of the whole run.
    """

    coefficients: tuple[int, ...]
    shift: int
    separation: int
    rounds: int

    def sensitivity(self, rounds: int) -> float:
        """How far one client moves the first `rounds` of y, in clip norms."""
        starts = range(0, min(rounds, self.rounds), self.separation)
        square = sum(sum(m * m for m in self.coefficients[: rounds - start]) for start in starts)
        return math.sqrt(square) / (1 << self.shift)

    @cached_property
    def error(self) -> float:
        """Noise of the sums of 1, 2, ... rounds, over that with independent noise: both root mean square."""
        return math.sqrt(_error([m / (1 << self.shift) for m in self.coefficients], self.rounds))

    @property
    def gain(self) -> float:
        """How much larger independent noise of the same epsilon is, in the sums of rounds."""
        independent = math.sqrt(math.ceil(self.rounds / self.separation))
        return independent / (self.sensitivity(self.rounds) * self.error)

    def noise(self, draws: Iterable[Integers]) -> Integers:
        """The last round's n, in fine units.

        Args:
            draws: z of every round so far, the first one first.
        """
        half = (1 << self.shift) >> 1
        before: deque[Integers] = deque(maxlen=max(1, len(self.coefficients) - 1))
        for drawn in draws:
            taken = sum(m * n for m, n in zip(self.coefficients[1:], before, strict=False))
            before.appendleft(drawn - (taken + half >> self.shift))
        return before[0]


def independent(rounds: int, separation: int) -> Correlation:
    """Independent noise, where clients rest."""
    return Correlation((1,), 0, separation, rounds)


@lru_cache(maxsize=64)
def blt_for(rounds: int, separation: int) -> Correlation:
    """The coefficients with the least noise in the sums of rounds, at equal epsilon.

    Found by the simplex method of Nelder and Mead over both sequences, with the four basic operations and exactly
    rounded sums alone, so that every machine finds the same.

    Raises:
        ConfigError: there are too many rounds, or independent noise does as well.
    """
    if rounds > MOST_ROUNDS:
        raise ConfigError(
            f"dp-mechanism is 'blt' and rounds is {rounds:,}, expected at most {MOST_ROUNDS:,}: each round makes the "
            "noise of all rounds before again"
        )
    width = min(separation, rounds)
    best = _least(lambda point: _cost(point, rounds, separation), _START, _STEPS)
    scale = 1 << _SHIFT
    found = Correlation(tuple(int(scale * c + 0.5) for c in _sequence(best, width)), _SHIFT, separation, rounds)
    if found.gain < LEAST_GAIN:
        raise ConfigError(
            f"dp-mechanism is 'blt', rounds is {rounds:,} and dp-min-separation is {separation}, so the gain is "
            f"{found.gain:.2f}: expected gaussian, or a larger separation"
        )
    return found


def _sequence(point: _Point, width: int) -> list[float]:
    """C's first column, (width,)."""
    one, falls, other, falls_too = point
    values = [1.0]
    for _ in range(width - 1):
        values.append(one + other)
        one, other = one * falls, other * falls_too
    return values


def _cost(point: _Point, rounds: int, separation: int) -> float:
    """Square of the noise at equal epsilon, but for a constant."""
    if any(not 0 <= value <= 1 for value in point) or point[0] + point[2] > 1:
        return math.inf
    column = _sequence(point, min(separation, rounds))
    squares = [value * value for value in column]
    square = math.fsum(math.fsum(squares[: rounds - start]) for start in range(0, rounds, separation))
    return square * _error(column, rounds)


def _error(column: Sequence[float], rounds: int) -> float:
    """Mean square of the noise in the sums of 1, 2, ... rounds, over that with independent noise.

    With b_s the noise of round 1's z in the sum of s rounds, a sum of t rounds has the variance b_1^2 + ... + b_t^2.
    """
    inverse: deque[float] = deque(maxlen=max(1, len(column) - 1))
    total, squares = 0.0, list[float]()
    for number in range(rounds):
        value = (0.0 if number else 1.0) - math.fsum(c * d for c, d in zip(column[1:], inverse, strict=False))
        inverse.appendleft(value)
        total += value
        squares.append(total * total * (rounds - number))
    return math.fsum(squares) / (rounds * (rounds + 1) / 2)


def _least(function: Callable[[_Point], float], start: _Point, steps: _Point) -> _Point:
    """Where a function is least (Nelder and Mead 1965)."""

    def tried(point: Iterable[float]) -> tuple[float, _Point]:
        corner = tuple(point)
        return function(corner), corner

    simplex = [tried(start), *(tried((*start[:i], start[i] + by, *start[i + 1 :])) for i, by in enumerate(steps))]
    for _ in range(_ITERATIONS):
        simplex.sort(key=_value)
        (least, best), (worst, last) = simplex[0], simplex[-1]
        middle = [math.fsum(values) / len(start) for values in zip(*(point for _, point in simplex[:-1]), strict=True)]
        reflected = tried(2 * m - w for m, w in zip(middle, last, strict=True))
        if reflected[0] < least:
            simplex[-1] = min(tried(3 * m - 2 * w for m, w in zip(middle, last, strict=True)), reflected, key=_value)
        elif reflected[0] < simplex[-2][0]:
            simplex[-1] = reflected
        else:
            end = reflected[1] if reflected[0] < worst else last
            halfway = tried((m + e) / 2 for m, e in zip(middle, end, strict=True))
            if halfway[0] < min(reflected[0], worst):
                simplex[-1] = halfway
            else:
                nearer = (((a + b) / 2 for a, b in zip(best, point, strict=True)) for _, point in simplex[1:])
                simplex = [simplex[0], *map(tried, nearer)]
    return min(simplex, key=_value)[1]


def _value(corner: tuple[float, _Point]) -> float:
    return corner[0]

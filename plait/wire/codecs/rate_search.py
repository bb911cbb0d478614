"""The encoder's search: which step, which quantisers and which path bring a delta to a rate at the least distortion.

One Lagrangian over everything: each number takes the point that minimises distortion + λ · bits on the way through the
trellis, with λ and the step the same in every group, so bits go where they lower the distortion most. Groups differ in
scale only. Nothing here binds the decoder; see `rate` for the bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plait.adapters.state import Float32
from plait.wire.codecs.cells import Cells
from plait.wire.codecs.quantiser import Index, Quantiser, Quantisers
from plait.wire.codecs.trellis import Trellis

LEAST_STEP = 2.0**-126
GREATEST_STEP = 2.0**114  # the furthest point, 2 · 4,096 + 2 steps away, is then still a float32

_LANE_STEPS = 512
_SAMPLE_STEPS = 64  # lanes of a sample are shorter, which hardly matters and leaves numpy longer rows
_SMALL, _LARGE = 1 << 14, 1 << 16
_STEP_PASSES, _PRICE_PASSES, _WHOLE_PASSES = 14, 6, 3
_CLOSE = 0.008  # how far from its target a rate may end, as a part of it
_STEEPEST = 40.0

# Tuned on Gaussian samples. For rates in bits a number: the step in standard deviations, and λ in squared steps.
_LOG_RATES = np.log([0.1, 0.25, 0.5, 1, 2, 4, 8])
_LOG_STEPS = np.log([1.8, 1.7, 1.55, 0.88, 0.38, 0.125, 0.008])
_PRICES = np.array([0.3, 0.3, 0.3, 0.5, 0.65, 0.5, 0.4])


@dataclass(frozen=True)
class Quantised:
    """Numbers of several groups, one group after the other, quantised.

    Attributes:
        step: distance of the points, 2 steps within a quantiser.
        quantisers: of each group, fitted to it.
        index: (n,) of each number.
        quantiser: (n,) 0 or 1, which the trellis gave it.
    """

    step: np.float32
    quantisers: Sequence[Quantisers]
    index: Index
    quantiser: Quantiser


def lanes_of(size: int) -> int:
    """How many lanes carry `size` numbers (part of the format)."""
    return max(1, size // _LANE_STEPS)


def search(groups: Sequence[Float32], bits: float, trellis: Trellis, *, overhead_bytes: int) -> Quantised:
    """Quantise groups of numbers, none of them all zeros, to about `bits` a number over all of them.

    The bits of all parameters count: `overhead_bytes` are those besides the quantisers.
    """
    size = sum(group.size for group in groups)
    log_bits = np.log(bits)
    price = float(np.interp(log_bits, _LOG_RATES, _PRICES))
    energy = sum(float(np.square(group, dtype=np.float64).sum()) for group in groups)
    log_step = 0.5 * np.log(energy / size) + float(np.interp(log_bits, _LOG_RATES, _LOG_STEPS))

    def quantise(sample: Sequence[Float32], guess: Sequence[Quantisers], price: float, lane_steps: int) -> _Path:
        lanes = max(1, sum(group.size for group in sample) // lane_steps)
        return _quantise(sample, aim.step, guess, price, trellis, lanes)

    def rate(path: _Path) -> float:
        parameter_bytes = overhead_bytes + sum(each.size_bytes for each in path.quantisers)
        return path.bits + 8 * parameter_bytes / size

    # Step and quantisers pull each other along; a few numbers show them the way.
    aim = _Aim(bits, log_step)
    sample = [group[:: max(1, size // _SMALL)] for group in groups]
    guess = [Quantisers.gaussian(group / aim.step) for group in sample]
    for attempt in range(_STEP_PASSES):
        if attempt == _STEP_PASSES - 3:
            sample = [group[:: max(1, size // _LARGE)] for group in groups]
        path = quantise(sample, guess, price, _SAMPLE_STEPS)
        guess = path.quantisers
        if attempt:  # the first only replaces the guess
            aim = aim.corrected(rate(path))
    # λ alone does not: it brings the rate to the point.
    dial = _Dial(bits, price)
    for _ in range(_PRICE_PASSES):
        got = rate(quantise(sample, guess, dial.price, _SAMPLE_STEPS))
        if abs(got / bits - 1) < _CLOSE / 2:
            break
        dial = dial.turned(got)
    whole = dial.afresh()
    for _ in range(_WHOLE_PASSES):
        path = quantise(groups, guess, whole.price, _LANE_STEPS)
        if abs(rate(path) / bits - 1) < _CLOSE:
            break
        whole = whole.turned(rate(path))
    return path.quantised()


@dataclass(frozen=True)
class _Aim:
    """Where the search for the step stands, and what rate the step before gave."""

    bits: float
    log_step: float
    before: tuple[float, float] | None = None

    @property
    def step(self) -> np.float32:
        return np.float32(np.clip(np.exp(self.log_step), LEAST_STEP, GREATEST_STEP))

    def corrected(self, got: float) -> _Aim:
        """The next step to try: by the slope that a Gaussian has, or the one just seen if that is steeper."""
        slope = 1.44 + 2.5 * np.exp(-2 * min(got, self.bits))  # bits lost by an e-fold of the step
        if self.before is not None and self.before[0] != self.log_step:
            seen = (self.before[1] - got) / (self.log_step - self.before[0])
            slope = max(slope, min(seen, _STEEPEST))
        move = float(np.clip((got - self.bits) / slope, -0.5, 0.5)) if got else -0.2
        return _Aim(self.bits, self.log_step + move, (self.log_step, got))


@dataclass(frozen=True)
class _Dial:
    """Where the search for λ stands: the rate falls with it, by how much shows only on the way."""

    bits: float
    price: float
    slope: float = 0.0  # of log rate by log price, as last seen
    before: tuple[float, float] | None = None
    low: float = 0.0
    high: float = np.inf

    def turned(self, got: float) -> _Dial:
        """The next price to try, within those known to be too low and too high."""
        low, high = (self.price, self.high) if got > self.bits else (self.low, self.price)
        slope = self.slope or -0.3 / self.bits
        if self.before is not None and self.before[1] != got:
            slope = float(np.log(got / self.before[1]) / np.log(self.price / self.before[0]))
        slope = min(max(slope, -50.0), -0.02)
        price = self.price * float(np.exp(np.clip(np.log(self.bits / got) / slope, -0.7, 0.7)))
        if not low < price < high:
            price = np.sqrt(low * high)
        return _Dial(self.bits, price, slope, (self.price, got), low, high)

    def afresh(self) -> _Dial:
        """The same price, for other numbers."""
        return _Dial(self.bits, self.price, self.slope)


@dataclass(frozen=True)
class _Path:
    step: np.float32
    quantisers: Sequence[Quantisers]
    bits: float
    cells: Sequence[Cells]
    cell: NDArray[np.int32]
    branch: NDArray[np.uint8]

    def quantised(self) -> Quantised:
        index = np.concatenate([each.index for each in self.cells], axis=1)
        place = self.branch * np.int32(index.shape[1])
        place += self.cell
        return Quantised(self.step, self.quantisers, index.ravel().take(place), self.branch >> 1)


def _quantise(
    groups: Sequence[Float32],
    step: np.float32,
    guess: Sequence[Quantisers],
    price: float,
    trellis: Trellis,
    lanes: int,
) -> _Path:
    """The cheapest paths under the guessed quantisers, and the quantisers that fit them."""
    cell = np.empty(sum(group.size for group in groups), np.int32)
    cells: list[Cells] = []
    start = first = 0
    for group, each in zip(groups, guess, strict=True):
        value = group / step
        cells.append(Cells.of(each.widened(Quantisers.reach(value)), price))
        cells[-1].sort(value, first, out=cell[start : start + group.size])
        start, first = start + group.size, first + cells[-1].middle.size
    branch = trellis.cheapest(cell, np.concatenate([each.costs for each in cells], axis=1), lanes)
    place = branch * np.int32(first)
    place += cell
    count = np.bincount(place, minlength=4 * first).reshape(4, first)
    fitted: list[Quantisers] = []
    length_bits, start = 0.0, 0
    for each in cells:
        there = count[:, start : (start := start + each.middle.size)]
        used = there.nonzero()
        middle, index, quantiser, many = each.middle[used[1]], each.index[used], each.quantiser[used], there[used]
        fitted.append(Quantisers.fitted(middle, index, quantiser, many))
        length_bits += fitted[-1].length_bits(index, quantiser, many)
    return _Path(step, fitted, length_bits / cell.size, cells, cell, branch)

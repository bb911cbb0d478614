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
from plait.wire.codecs.quantiser import Index, Quantiser, Quantisers
from plait.wire.codecs.trellis import GREATEST_COST, Trellis

LEAST_STEP = 2.0**-126
GREATEST_STEP = 2.0**114  # the furthest point, 2 · 4,096 + 2 steps away, is then still a float32

_LANE_STEPS = 512
_SAMPLE = 1 << 16
_STEP_PASSES = 12
_PRICE_PASSES = 8
PER = 16
_COST_UNIT = 128  # of the trellis, in a squared step
_STEEPEST = 40.0

# Tuned on Gaussian samples. For rates in bits a number: the step in standard deviations, and λ in squared steps.
_LOG_RATES = np.log([0.1, 0.25, 0.5, 1, 2, 4, 8])
_LOG_STEPS = np.log([1.7, 1.65, 1.5, 0.93, 0.45, 0.125, 0.0078])
_PRICES = np.array([0.3, 0.3, 0.3, 0.5, 0.65, 0.5, 0.4])


@dataclass(frozen=True)
class Quantised:
    """Numbers of several groups, one group after the other, quantised.

    Attributes:
        step: distance of the points, 2 steps within a quantiser.
        quantisers: of each group, fitted to it.
        index: (n,) of each number.
        quantiser: (n,) 0 or 1, which the trellis gave it.
        bits: how many a number takes.
    """

    step: np.float32
    quantisers: Sequence[Quantisers]
    index: Index
    quantiser: Quantiser
    bits: float


def lanes_of(size: int) -> int:
    """How many lanes carry `size` numbers (part of the format)."""
    return max(1, size // _LANE_STEPS)


def search(groups: Sequence[Float32], bits: float, trellis: Trellis) -> Quantised:
    """Quantise groups of numbers, none of them all zeros, to about `bits` a number over all of them."""
    log_bits = np.log(bits)
    price = np.float32(np.interp(log_bits, _LOG_RATES, _PRICES))
    size = sum(group.size for group in groups)
    energy = sum(float(np.square(group, dtype=np.float64).sum()) for group in groups)
    log_step = 0.5 * np.log(energy / size) + float(np.interp(log_bits, _LOG_RATES, _LOG_STEPS))

    sample = [group[:: max(1, size // _SAMPLE)] for group in groups]
    lanes = lanes_of(sum(group.size for group in sample))
    guess = [Quantisers.gaussian(group / _step(log_step)) for group in sample]
    aim = _Aim(bits, log_step)
    for attempt in range(_STEP_PASSES):
        done = _quantise(sample, aim.log_step, guess, price, trellis, lanes)
        guess = done.quantisers
        if attempt:  # the first only replaces the guess
            aim = aim.corrected(done.bits)
    # Step and quantisers pull each other along, λ alone does not: it brings the rate to the point.
    low, high = price / 4, price * 4
    for _ in range(_PRICE_PASSES):
        price = np.sqrt(low * high)
        done = _quantise(sample, aim.log_step, guess, price, trellis, lanes)
        low, high = (price, high) if done.bits > bits else (low, price)
    return _quantise(groups, aim.log_step, guess, price, trellis, lanes_of(size)).quantised()


@dataclass(frozen=True)
class _Aim:
    """Where the search for the step stands, and what rate the step before gave."""

    bits: float
    log_step: float
    before: tuple[float, float] | None = None

    def corrected(self, got: float) -> _Aim:
        """The next step to try: by the slope that a Gaussian has, or the one just seen if that is steeper."""
        slope = 1.44 + 2.5 * np.exp(-2 * min(got, self.bits))  # bits lost by an e-fold of the step
        if self.before is not None and self.before[0] != self.log_step:
            seen = (self.before[1] - got) / (self.log_step - self.before[0])
            slope = max(slope, min(seen, _STEEPEST))
        move = float(np.clip((got - self.bits) / slope, -0.5, 0.5)) if got else -0.2
        return _Aim(self.bits, self.log_step + move, (self.log_step, got))


def _step(log_step: float) -> np.float32:
    return np.float32(np.clip(np.exp(log_step), LEAST_STEP, GREATEST_STEP))


def _quantise(
    groups: Sequence[Float32],
    log_step: float,
    guess: Sequence[Quantisers],
    price: float,
    trellis: Trellis,
    lanes: int,
) -> _Path:
    """The cheapest paths under the guessed quantisers, and the quantisers that fit them."""
    step = _step(log_step)
    cells = [
        _Cells.of(each.widened(Quantisers.reach(group, step)), price) for group, each in zip(groups, guess, strict=True)
    ]
    cell = np.empty(sum(group.size for group in groups), np.int32)
    start = offset = 0
    for group, each in zip(groups, cells, strict=True):
        each.sort(group, step, offset, out=cell[start : start + group.size])
        start, offset = start + group.size, offset + each.value.size
    branch = trellis.cheapest(cell, np.concatenate([each.costs for each in cells], axis=1), lanes)
    count = np.bincount(branch * np.intp(offset) + cell, minlength=4 * offset).reshape(4, offset)
    fitted: list[Quantisers] = []
    length_bits, start = 0.0, 0
    for each in cells:
        here = count[:, start : (start := start + each.value.size)].ravel()
        fitted.append(Quantisers.fitted(np.tile(each.value, 4), each.index.ravel(), each.quantiser, here))
        length_bits += fitted[-1].length_bits(each.index.ravel(), each.quantiser, here)
    return _Path(step, fitted, length_bits / cell.size, cells, cell, branch)


@dataclass(frozen=True)
class _Path:
    step: np.float32
    quantisers: Sequence[Quantisers]
    bits: float
    cells: Sequence[_Cells]
    cell: NDArray[np.int32]
    branch: NDArray[np.uint8]

    def quantised(self) -> Quantised:
        index = np.concatenate([each.index for each in self.cells], axis=1)
        return Quantised(
            self.step,
            self.quantisers,
            index.ravel().take(self.branch * np.int32(index.shape[1]) + self.cell),
            self.branch >> 1,
            self.bits,
        )


@dataclass(frozen=True)
class _Cells:
    """Narrow cells of numbers, and what the numbers in each cost and become in branch 2 * quantiser + parity."""

    per_step: int
    value: Float32
    costs: NDArray[np.int16]
    index: Index

    @classmethod
    def of(cls, quantisers: Quantisers, price: float) -> _Cells:
        largest = quantisers.largest
        per_step = PER
        reach = (2 * largest + 2) * per_step
        value = np.arange(-reach, reach + 1, dtype=np.float32) / np.float32(per_step)
        costs = np.empty((4, value.size), np.float32)
        index = np.empty((4, value.size), np.int32)
        for quantiser in (0, 1):
            points, bits = quantisers.points(quantiser), quantisers.bits(quantiser) * np.float32(price)
            for parity in (0, 1):
                branch = 2 * quantiser + parity
                nearest = 2 * np.rint((value / 2 - parity) / 2).astype(np.int32) + parity
                best = np.full(value.size, np.inf, np.float32)
                for neighbour in (0, -2, 2):
                    candidate = nearest + neighbour
                    at = np.clip(candidate, -largest, largest) + largest
                    cost = np.square(value - points[at]) + bits[at]
                    better = (cost < best) & (np.abs(candidate) <= largest)
                    np.copyto(best, cost, where=better)
                    np.copyto(index[branch], candidate, where=better)
                costs[branch] = best
        costs -= costs.min(axis=0)
        fine = np.minimum(np.rint(costs * np.float32(_COST_UNIT)), GREATEST_COST).astype(np.int16)
        return cls(per_step, value, fine, index)

    @property
    def quantiser(self) -> Quantiser:
        return np.repeat(np.array([0, 1], np.uint8), 2 * self.value.size)

    def sort(self, group: Float32, step: np.float32, offset: int, *, out: NDArray[np.int32]) -> None:
        middle = self.value.size // 2
        cell = group * np.float32(self.per_step / step)
        np.rint(cell, out=cell)
        np.clip(cell, -middle, middle, out=cell)
        np.add(cell, middle + offset, out=out, casting="unsafe")

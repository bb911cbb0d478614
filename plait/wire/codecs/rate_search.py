"""The encoder's search: the step, quantisers and path that bring a delta to a rate at the least distortion.

One Lagrangian over everything: each number takes the point that minimises distortion + λ · bits along the path through
the trellis, with the same λ and step in every group, so bits go where they reduce the distortion most. Groups differ
only in scale. Nothing here binds the decoder; see `rate` for the bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from plait.adapters.state import Float32
from plait.wire.codecs.paths import Mix, Numbers, Path, quantise
from plait.wire.codecs.prices import PricePair
from plait.wire.codecs.quantiser import GREATEST_STEP, LEAST_STEP, Quantisers
from plait.wire.codecs.trellis import Trellis, lanes_of

# Samples: numbers, and steps of a lane.
_COARSE, _FINE = (1 << 14, 64), (1 << 16, 128)
_LEAST_PASSES, _COARSE_PASSES, _FINE_PASSES, _WHOLE_PASSES = 4, 11, 2, 3
_STEEPEST = 40.0
_NEAR, _CLOSE = 0.02, 0.008  # tolerances of a rate, on the coarse sample and on all numbers, relative to its target

# Tuned on Gaussian samples. For rates in bits a number: the step in standard deviations, and λ in squared steps.
_LOG_RATES = np.log([1, 2, 4, 8])
_LOG_STEPS = np.log([0.88, 0.38, 0.125, 0.008])
_PRICES = np.array([0.5, 0.65, 0.5, 0.4])


def search(groups: Sequence[Float32], bits: float, trellis: Trellis, *, overhead_bytes: int) -> Path:
    """Quantise groups of numbers, none of them all zeros, to about `bits` a number over all of them.

    All parameters count (`overhead_bytes` are those besides the quantisers), but only up to half of the target.
    """
    size = sum(group.size for group in groups)
    numbers = Numbers(groups, lanes_of(size))
    price = float(np.interp(np.log(bits), _LOG_RATES, _PRICES))
    energy = sum(float(np.square(group, dtype=np.float64).sum()) for group in groups)
    deviations = float(np.interp(np.log(bits), _LOG_RATES, _LOG_STEPS))
    aim = _Aim(bits, 0.5 * float(np.log(energy / size)) + deviations)

    def rate(path: Path) -> float:
        parameter_bytes = overhead_bytes + sum(each.size_bytes for each in path.quantisers)
        return path.bits + min(8 * parameter_bytes / size, bits / 2)

    # Step and quantisers depend on each other; a sample of the numbers finds both.
    coarse, fine = (numbers.sample(*kind) for kind in (_COARSE, _FINE))
    guess: Sequence[Quantisers] = [Quantisers.gaussian(group / aim.step) for group in coarse.groups]
    for attempt in range(_COARSE_PASSES):
        path = quantise(coarse, aim.step, guess, Mix(price, price, 1), trellis)
        guess, got = path.quantisers, rate(path)
        if attempt:  # the first only replaces the guess
            aim = aim.corrected(got)
        if attempt + 1 >= _LEAST_PASSES and abs(got - bits) < _NEAR * bits:
            break
    for _ in range(_FINE_PASSES):
        path = quantise(fine, aim.step, guess, Mix(price, price, 1), trellis)
        guess, aim = path.quantisers, aim.corrected(rate(path))
    # λ alone does the rest: it fixes the rate, first on the sample, then on all numbers.
    step = aim.step
    pair = PricePair.around(price, bits, lambda it: rate(quantise(fine, step, guess, Mix(it, it, 1), trellis)))
    share = pair.share(bits)
    for _ in range(_WHOLE_PASSES - 1):
        path = quantise(numbers, step, guess, pair.mix(share), trellis)
        if abs(rate(path) - bits) < _CLOSE * bits:
            return path
        share += pair.share(bits) - pair.share(rate(path))
    return quantise(numbers, step, guess, pair.mix(share), trellis)


@dataclass(frozen=True)
class _Aim:
    """The state of the search for the step, and the rate of the previous step."""

    bits: float
    log_step: float
    before: tuple[float, float] | None = None

    @property
    def step(self) -> np.float32:
        return np.float32(np.clip(np.exp(self.log_step), LEAST_STEP, GREATEST_STEP))

    def corrected(self, got: float) -> _Aim:
        """The next step to try: by a Gaussian's slope, or the observed one if that is steeper."""
        slope = 1.44 + 2.5 * np.exp(-2 * min(got, self.bits))  # bits lost by an e-fold of the step
        if self.before is not None and self.before[0] != self.log_step:
            seen = (self.before[1] - got) / (self.log_step - self.before[0])
            slope = max(slope, min(seen, _STEEPEST))
        move = float(np.clip((got - self.bits) / slope, -0.5, 0.5)) if got else -0.2
        return _Aim(self.bits, self.log_step + move, (self.log_step, got))

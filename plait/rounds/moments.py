"""Optimizer state that a client carries from one round to the next: AdamW's two running means (arXiv 1711.05101)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from plait.adapters import Float32
from plait.rounds.client_state import Kept


@dataclass(frozen=True)
class Moments:
    """AdamW's moments.

    Attributes:
        mean: (size,) running mean of the gradients, in the order of the adapter's flat buffer.
        square: (size,) running mean of their squares.
        steps: for each tensor of the adapter, the number of steps in its means. Both means start at 0, which the bias
            correction undoes by this number; tensors that train in alternate rounds have their own numbers.
    """

    mean: Float32
    square: Float32
    steps: tuple[int, ...]

    @classmethod
    def none(cls, size: int, tensors: int) -> Moments:
        """Moments before any step."""
        return cls(np.zeros(size, np.float32), np.zeros(size, np.float32), (0,) * tensors)

    def kept(self) -> Kept:
        """The moments as stored."""
        steps = np.array(self.steps, np.uint32)
        return Kept(arrays={"mean": self.mean, "square": self.square, "steps": steps})

    @classmethod
    def of(cls, kept: Kept, size: int, tensors: int) -> Moments | None:
        """The inverse of `kept`; None if there are none for an adapter of this size."""
        mean, square, steps = kept.vector("mean", size), kept.vector("square", size), kept.arrays.get("steps")
        if mean is None or square is None or steps is None or steps.shape != (tensors,):
            return None
        return cls(mean, square, tuple(int(count) for count in steps))

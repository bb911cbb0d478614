"""The weighted sum of flat float32 buffers in float64, at memory bandwidth.

A float64 accumulator is twice as large as a delta and must be read and written for each: that is four times the
traffic of the delta itself. So a few deltas are held back and summed together, block by block, while the block stays in
the processor's cache: each is widened to float64 there, and one vector-matrix product sums them. The order of additions
is determined by the order of the calls and the linear algebra library alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from plait.adapters import Float32

# A block of all that is held back, widened to 8 bytes, is 3 MiB: it stays in the caches, is long enough that the calls
# which sum it cost little in comparison, and short enough that OpenBLAS does not wake its threads for it, which on a
# busy machine takes a hundred times as long.
_BLOCK_ELEMENTS = 3 << 14
_HELD_BACK = 8


class WeightedSum:
    """Sum of weight * values over all calls of `add`."""

    def __init__(self, size: int) -> None:
        self._sum: NDArray[np.float64] = np.zeros(size, np.float64)
        self._wide: NDArray[np.float64] = np.empty((_HELD_BACK, min(size, _BLOCK_ELEMENTS)), np.float64)
        self._waiting: list[tuple[Float32, float]] = []
        self.weight = 0.0

    def add(self, values: Float32, weight: float) -> None:
        """Add `weight` times `values`, (size,), which must not change until `total` or `mean` is called."""
        self._waiting.append((values, weight))
        self.weight += weight
        if len(self._waiting) == _HELD_BACK:
            self._fold()

    def total(self) -> NDArray[np.float64]:
        """The sum, (size,)."""
        self._fold()
        return self._sum

    def mean(self) -> NDArray[np.float64]:
        """The sum over the sum of weights, (size,).

        Raises:
            ValueError: nothing was added.
        """
        if not self.weight:
            raise ValueError("no update was added")
        return np.divide(self.total(), self.weight)

    def _fold(self) -> None:
        if not self._waiting:
            return
        weights = np.array([weight for _, weight in self._waiting])
        for start in range(0, len(self._sum), _BLOCK_ELEMENTS):
            block = self._sum[start : start + _BLOCK_ELEMENTS]
            wide = self._wide[: len(self._waiting), : len(block)]
            for row, (values, _) in zip(wide, self._waiting, strict=True):
                row[:] = values[start : start + len(block)]
            block += weights @ wide
        self._waiting.clear()

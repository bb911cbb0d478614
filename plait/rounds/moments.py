"""What a client's optimizer remembers from one round to the next: AdamW's two running means (arXiv 1711.05101)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from plait.adapters import Float32


@dataclass(frozen=True)
class Moments:
    """What AdamW remembers of the gradients that it has seen.

    Attributes:
        mean: (size,) running mean of the gradients, in the order of the adapter's flat buffer.
        square: (size,) running mean of their squares.
        steps: for each tensor of the adapter, how many steps are in its means. Both start at 0, which is corrected for
            by this number; tensors that train in alternate rounds have numbers of their own.
    """

    mean: Float32
    square: Float32
    steps: tuple[int, ...]

    @classmethod
    def none(cls, size: int, tensors: int) -> Moments:
        """Of an optimizer that has seen nothing."""
        return cls(np.zeros(size, np.float32), np.zeros(size, np.float32), (0,) * tensors)

    def to_bytes(self) -> bytes:
        """For a client's memory."""
        steps = np.array(self.steps, "<u4")
        return b"".join((self.mean.astype("<f4").tobytes(), self.square.astype("<f4").tobytes(), steps.tobytes()))

    @classmethod
    def from_bytes(cls, data: bytes, size: int, tensors: int) -> Moments | None:
        """What `to_bytes` made; None where it is lost or of another adapter."""
        if len(data) != 8 * size + 4 * tensors:
            return None
        mean, square = (np.frombuffer(data, "<f4", size, 4 * size * part).astype(np.float32) for part in (0, 1))
        return cls(mean, square, tuple(int(count) for count in np.frombuffer(data, "<u4", tensors, 8 * size)))

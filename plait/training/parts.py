"""A flat vector of tensors that lie on several devices: each device's own, flat, and back.

Knows nothing of what the numbers are.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TypeVar

import numpy as np
import torch

from plait.adapters import Float32

T = TypeVar("T")


class Parts:
    """Which tensors of a flat vector each device has; on one device, the vector itself.

    Attributes:
        devices: each once, in the order of their first tensors.
    """

    def __init__(self, sizes: Sequence[int], devices: Sequence[torch.device]) -> None:
        self.devices = tuple(dict.fromkeys(devices))
        self._own = [[place for place, own in enumerate(devices) if own == device] for device in self.devices]
        self._bounds = list(accumulate(sizes))[:-1]

    def split(self, flat: Float32) -> list[Float32]:
        """(size,) values as one vector for each device."""
        return (
            [flat] if len(self.devices) == 1 else [*map(np.concatenate, self.by_device(np.split(flat, self._bounds)))]
        )

    def join(self, parts: Sequence[Float32]) -> Float32:
        """The inverse of `split`."""
        if len(parts) == 1:
            return parts[0]
        sizes = self.by_device(np.diff([0, *self._bounds, sum(map(len, parts))]).tolist())
        pieces = [np.split(part, list(accumulate(own))[:-1]) for part, own in zip(parts, sizes, strict=True)]
        return np.concatenate(self.in_order(pieces))

    def by_device(self, values: Sequence[T]) -> list[list[T]]:
        """What belongs to each tensor, as a list for each device."""
        return [[values[place] for place in own] for own in self._own]

    def in_order(self, parts: Sequence[Sequence[T]]) -> list[T]:
        """The inverse of `by_device`."""
        found = {
            place: value
            for own, part in zip(self._own, parts, strict=True)
            for place, value in zip(own, part, strict=True)
        }
        return [found[place] for place in range(len(found))]

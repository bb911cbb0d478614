"""The numbers of a masked round: which part of a delta travels, rotated and rounded to the roster's grid, and back.

Client and server make the same one from the roster and the round's settings. Knows no mask.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from plait.adapters import AdapterState, Float32, Layout
from plait.features.secagg.coding import Coding
from plait.features.secagg.ring import Ring
from plait.features.secagg.roster import joined
from plait.features.secagg.rotation import Rotation

if TYPE_CHECKING:
    from plait.features.privacy.mechanism import ClientPrivacy


@dataclass(frozen=True)
class MaskedGrid:
    """The grid of a round, over the parts of a delta that clients send.

    Attributes:
        received: digest of the adapter that the delta starts from; with the round it decides the rotation.
    """

    coding: Coding
    parts: tuple[slice, ...]
    received: bytes
    round: int

    @classmethod
    def of(
        cls, parts: tuple[slice, ...], *, received: bytes, number: int, bits: int, unit: float, clients: int
    ) -> MaskedGrid:
        """The grid of a roster with so many clients."""
        return cls(Coding(Ring(bits), clients, unit), parts, received, number)

    @cached_property
    def rotation(self) -> Rotation:
        """Of the round: the same in every attempt, so that a round asked for again has the same numbers."""
        size = sum(part.stop - part.start for part in self.parts)
        return Rotation(size, joined(self.received, self.round.to_bytes(8, "big")))

    def encode(self, delta: AdapterState, *, key: bytes) -> NDArray[np.int32]:
        """The whole numbers of a client's delta, (rotation.rotated_size,).

        Args:
            key: of the rounding, secret (see `plait.rounds.client_secret`).
        """
        wanted: Float32 = np.concatenate([delta.flat[part] for part in self.parts])
        return self.coding.encode(self.rotation, wanted, key=key)

    def noised(
        self, delta: AdapterState, privacy: ClientPrivacy, *, survivors: int, key_of: Callable[[bytes], bytes]
    ) -> tuple[NDArray[np.int64], int]:
        """The whole numbers of a client's clipped delta with its share of the noise.

        Args:
            key_of: gives the key of the noise for a digest of what it is added to.

        Returns:
            (the numbers, (rotation.rotated_size,); for an adaptive clip norm, whether the delta is within it, as a
            noised count, else 0).
        """
        from plait.features.privacy.clip import length
        from plait.features.privacy.key import derived

        wanted: Float32 = np.concatenate([delta.flat[part] for part in self.parts])
        rotated = self.rotation.forward(wanted)
        key = key_of(hashlib.sha256(rotated.tobytes() + survivors.to_bytes(4, "big")).digest())
        shares, unit = privacy.shares(rotated.size), self.coding.unit
        numbers = shares.drawn(rotated, unit=unit, guaranteed=survivors, key=derived(key, b"update"))
        counting = privacy.count_shares
        if counting is None:
            return numbers, 0
        is_within = length(rotated) <= unit * shares.sensitivity
        centre = np.array([counting.radius if is_within else -counting.radius])
        (counted,) = counting.around(centre, guaranteed=survivors, key=derived(key, b"count"))
        return numbers, int(counted)

    def decode(self, numbers: NDArray[np.int32], layout: Layout, *, clients: int = 1) -> AdapterState:
        """The delta of a client's numbers, or the mean of a sum of `clients`."""
        values = self.coding.decode(self.rotation, numbers) / np.float32(clients)
        flat: Float32 = np.zeros(layout.size, np.float32)
        at = 0
        for part in self.parts:
            flat[part] = values[at : at + part.stop - part.start]
            at += part.stop - part.start
        return AdapterState(layout, flat)


@dataclass(frozen=True)
class KeyedGrid:
    """A grid with the key of one client's rounding."""

    grid: MaskedGrid
    key: bytes = field(repr=False)

    def rounded(self, delta: AdapterState) -> tuple[NDArray[np.int32], AdapterState]:
        """The numbers of a delta, and what they decode to."""
        numbers = self.grid.encode(delta, key=self.key)
        return numbers, self.grid.decode(numbers, delta.layout)

"""The mean of a round whose clients add the noise, in one process and without masks: for audits of the mechanism.

As few clients as are guaranteed add their shares. Takes updates as `mechanism.PrivateMean` does. Knows no
mask and no wire.
"""

from __future__ import annotations

import numpy as np

from plait.adapters import Float32
from plait.features.privacy.clip import clipped_to_grid, length
from plait.features.privacy.key import derived
from plait.features.privacy.mechanism import ClientPrivacy, Released
from plait.features.privacy.noise import Integers
from plait.features.privacy.shares import Shares


class SharedMean:
    """Takes the updates of a round one by one.

    Args:
        key: of this round, 32 bytes.
    """

    def __init__(self, privacy: ClientPrivacy, *, size: int, clip_norm: float, key: bytes) -> None:
        self._privacy, self._clip_norm, self._key = privacy, clip_norm, key
        self._shares = privacy.shares(size)
        self._centres = np.zeros(size, np.int64)
        self._within = 0

    def add(self, client: str, values: Float32) -> None:
        """Add an update.

        Args:
            client: its name; each at most once.
            values: as decoded, (size,), finite.
        """
        key = derived(self._key, b"rounding of " + client.encode())
        self._centres += clipped_to_grid(values, clip_norm=self._clip_norm, radius=self._shares.radius, key=key)
        self._within += 1 if length(values) <= self._clip_norm else -1

    def finish(self) -> Released:
        """Add the noise of the guaranteed clients."""
        unit = self._clip_norm / self._shares.sensitivity
        numbers = self._noised(self._shares, self._centres, b"updates")
        clip_norm, counting = self._clip_norm, self._privacy.count_shares
        if counting is not None:
            (counted,) = self._noised(counting, np.array([self._within * counting.radius]), b"count")
            clip_norm = self._privacy.next_clip(clip_norm, counted / counting.sensitivity, self._privacy.clients)
        return Released((numbers * (unit / self._privacy.clients)).astype(np.float32), clip_norm)

    def _noised(self, shares: Shares, centres: Integers, purpose: bytes) -> Integers:
        """Around the sum, and around nothing for every further client."""
        total = np.zeros(centres.size, np.int64)
        for number in range(shares.guaranteed):
            key = derived(self._key, purpose + number.to_bytes(4, "big"))
            of_one = centres if number == 0 else np.zeros_like(centres)
            total += shares.around(of_one, guaranteed=shares.guaranteed, key=key)
        return total

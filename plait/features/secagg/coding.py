"""From a client's update to whole numbers whose sum fits the ring, and from their sum back to a mean.

x = R w / unit, rounded to one of its neighbours at random, so that the mean of the result is x: the errors of n clients
are independent and their mean's square falls as 1/n. The unit is the same for all clients of a round, because numbers
on different grids have no sum.

*What fits.* Rotated numbers are close to Gaussian, and a sum is to stay within the ring at `_DEVIATIONS` deviations.
If s is the deviation of a client's numbers, that of the sum is between sqrt(n) s, where clients have nothing in
common, and n s, where they agree entirely; rounding adds at most n/4 to its square. So the unit follows from how long
updates are and how far they agree, as earlier sums showed (`unit_for`). A client may send no vector longer than
`most_square`, with which clients that have nothing in common still fit, and cuts what is longer; error feedback keeps
it.

*What a member can lie about.* A client can put any numbers under its masks, and any length. So clients' stated norms
count only as far as they fit the norm of the mean, which the sum shows (`length_expected`), and a sum beyond the ring
is refused (`check_sum`). Knows no mask.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

from plait.adapters.state import Float32
from plait.errors import PeerError
from plait.features.secagg.ring import Ring
from plait.features.secagg.rotation import Rotation

_DEVIATIONS = 4.0
_HEADROOM = 1.5
"""How much longer updates, and their agreement, may be than in the round before."""
_MOST_APART = 4.0
"""How many times as long as the mean of a round its updates make that of the next one, whatever clients say of them."""
_MOST_FILLED = 1.75
"""How far the deviation of a sum's numbers may exceed what the unit was chosen for; 2.3 is that of a full ring."""
_FEW, _MANY = 16, 128


def bits_for(clients: int) -> int:
    """Bits for each number in a round of this many clients."""
    return 6 if clients <= _FEW else 7 if clients <= _MANY else 8


@dataclass(frozen=True)
class Coding:
    """The grid of one round."""

    ring: Ring
    clients: int
    unit: float

    def most_square(self, size: int) -> float:
        """The most that the square of a client's vector of `size` whole numbers may be."""
        return size * (_most(self.ring, self.clients) ** 2 / self.clients + 0.25)

    def encode(self, rotation: Rotation, wanted: Float32, *, key: bytes) -> NDArray[np.int32]:
        """Whole numbers, (rotation.rotated_size,), whose expectation is `wanted`, cut to the longest that may be sent.

        Args:
            wanted: (rotation.size,), finite.
            key: of the rounding, 32 bytes; the same key and numbers give the same result.
        """
        x = rotation.forward(wanted) / np.float32(self.unit)
        most = self.most_square(x.size)
        square = float(np.dot(x, x))
        if square > most:
            x *= np.float32(math.sqrt(most / square))
        noise = Cipher(AES(key), CTR(bytes(16))).encryptor()
        while True:
            uniform = np.frombuffer(noise.update(bytes(4 * x.size)), "<u4") >> np.uint32(8)
            drawn = np.floor(x + uniform.astype(np.float32) * np.float32(2.0**-24)).astype(np.int32)
            # Checked on the very numbers that are summed.
            length = int(np.dot(drawn.astype(np.int64), drawn.astype(np.int64)))
            if length <= most:
                return drawn
            x *= np.float32(math.sqrt(most / length) * 0.999)

    def decode(self, rotation: Rotation, numbers: NDArray[np.int32]) -> Float32:
        """The inverse of `encode`, of a client's numbers or of a sum, (rotation.size,)."""
        return rotation.backward(numbers.astype(np.float32) * np.float32(self.unit))


def unit_for(ring: Ring, *, clients: int, size: int, length: float) -> float:
    """The unit for updates of `size` numbers."""
    return max(_HEADROOM * length, 1e-30) * clients / (math.sqrt(size) * _most(ring, clients))


def length_expected(*, mean: float, rms: float, clients: int) -> float:
    """How long the mean of a round's updates may be, from the last round's.

    Args:
        rms: root mean square of its updates' norms as clients say it; the mean is as long where they agree entirely.

    Returns:
        At least `mean` and at most `_MOST_APART` times as much, however long clients say that their updates are.
    """
    rms = min(max(rms, mean), _MOST_APART * mean * math.sqrt(clients))
    return min(rms, max(_HEADROOM * mean, rms / math.sqrt(clients)))


def check_sum(ring: Ring, deviation: float) -> None:
    """Refuse a sum that has left the ring: that of clients within their bounds fits with `_DEVIATIONS` to spare.

    Raises:
        PeerError: its numbers are spread over the ring.
    """
    most = _MOST_FILLED * (1 << (ring.bits - 1)) / _DEVIATIONS
    if deviation > most:
        raise PeerError(
            f"the numbers of the sum have a deviation of {deviation:.3g} in a ring that holds {most:.3g}, which "
            "clients within their bounds do not reach: one of them departs from the protocol, and masks hide which"
        )


def _most(ring: Ring, clients: int) -> float:
    """The largest standard deviation of a sum's numbers, in units, before rounding."""
    most = (1 << (ring.bits - 1)) / _DEVIATIONS
    return math.sqrt(max(most**2 - clients / 4, most**2 / 4))

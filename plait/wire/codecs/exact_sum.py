"""A region's update: the exact sum of its clients' weighted deltas, as whole numbers of one unit.

Every number is its sum over 2^(8 e), in two's complement of as many bytes as the largest takes, least significant
first, in layout order. The parameters are e, the bytes of a number, and the sum of the weights. What a rule or a check
sees as the delta is the sum over that weight, in float32.
"""

from __future__ import annotations

import math
import struct

import numpy as np

from plait.adapters import AdapterState, Layout
from plait.adapters.partial_sum import LIMB_BITS, PartialSum
from plait.adapters.state import Float32
from plait.errors import PeerError
from plait.wire.codec import EncodedPayload

_PARAMETERS = struct.Struct("<hBd")
_LIMB = LIMB_BITS // 8
# Exponents of 256: from the smallest float32 times the last bit of a weight to 2^120 times the largest weight, and the
# sign. One range for all, so that sums whose bits are far apart still add up to one that a receiver takes.
_PLACES = range(-26, 22)
MOST_BYTES = len(_PLACES)
"""Of a number."""
_MOST_WEIGHT = 2.0**53


class ExactSumCodec:
    """Packs what `PartialSum` holds, without loss."""

    name = "sum"
    number = 12
    bits = 48.0
    distortion = 0.0

    def encode(self, delta: AdapterState) -> EncodedPayload:
        """One delta with weight 1, exact."""
        return self.encode_sum(PartialSum.of(delta.flat))

    def encode_sum(self, part: PartialSum) -> EncodedPayload:
        """A sum; the bytes are the same for the same sum and weight.

        Raises:
            PeerError: numbers so large or small that no receiver takes them.
        """
        places = sorted(part.limbs)
        limbs = [part.limbs[place].astype(np.int64) for place in places]
        words = np.stack([*(limb & 0xFFFFFFFF for limb in limbs), limbs[-1] >> LIMB_BITS], axis=1).astype("<u4")
        digits = words.view(np.uint8)
        if not digits.any():
            return EncodedPayload(_PARAMETERS.pack(0, 1, part.weight), bytes(len(digits)))
        first, last = 0, digits.shape[1]
        while first < last - 1 and not digits[:, first].any():
            first += 1
        # The highest bytes say nothing where they repeat the sign below them.
        while first < last - 1 and (digits[:, last - 1] == (digits[:, last - 2] >> 7) * np.uint8(255)).all():
            last -= 1
        exponent = _LIMB * places[0] + first
        _check_places(exponent, last - first)
        parameters = _PARAMETERS.pack(exponent, last - first, part.weight)
        return EncodedPayload(parameters, digits[:, first:last].tobytes())

    def decode(self, parameters: bytes, payload: bytes | memoryview, layout: Layout) -> Float32:
        """The mean."""
        return self.mean_of(self.decode_sum(parameters, payload, layout))

    def mean_of(self, part: PartialSum) -> Float32:
        """The mean of a sum that came in.

        Raises:
            PeerError: it is beyond float32.
        """
        with np.errstate(over="ignore"):
            mean = part.mean()
        if not np.isfinite(mean).all():
            raise PeerError("sum over its weight is beyond float32, expected finite values")
        return mean

    def decode_sum(self, parameters: bytes, payload: bytes | memoryview, layout: Layout) -> PartialSum:
        """The sum.

        Raises:
            PeerError: `encode_sum` cannot have written these bytes.
        """
        if len(parameters) != _PARAMETERS.size:
            raise PeerError(f"sum has {len(parameters)} bytes of parameters, expected {_PARAMETERS.size}")
        exponent, width, weight = _PARAMETERS.unpack(parameters)
        if not 1 <= width <= MOST_BYTES or len(payload) != width * layout.size:
            raise PeerError(
                f"sum has {len(payload)} bytes and {width} for each number, expected {layout.size} numbers of 1 to "
                f"{MOST_BYTES} bytes"
            )
        if not (math.isfinite(weight) and 0 < weight <= _MOST_WEIGHT):
            raise PeerError(f"weight of the sum is {weight:g}, expected more than 0 and at most {_MOST_WEIGHT:g}")
        _check_places(exponent, width)
        lowest, ahead = divmod(exponent, _LIMB)
        highest = lowest - (-(ahead + width) // _LIMB) - 1
        digits = np.frombuffer(payload, np.uint8).reshape(layout.size, width)
        words = np.zeros((layout.size, _LIMB * (highest - lowest + 1)), np.uint8)
        words[:, ahead : ahead + width] = digits
        words[:, ahead + width :] = (digits[:, -1:] >> 7) * np.uint8(255)
        columns = words.view("<u4")
        limbs = {lowest + at: columns[:, at].astype(np.float64) for at in range(highest - lowest)}
        limbs[highest] = words.view("<i4")[:, -1].astype(np.float64)
        return PartialSum(limbs, weight)

    def max_payload_bytes(self, layout: Layout) -> int:
        """`MOST_BYTES` a number, and the parameters."""
        return MOST_BYTES * layout.size + _PARAMETERS.size


def sum_bits(clients: int) -> float:
    """Bits of a number in the sum of so many deltas of the rate codec: at 1 bit 4 bytes for three, 5 for a hundred."""
    return 8.0 * math.ceil((30 + math.log2(clients)) / 8)


def _check_places(exponent: int, width: int) -> None:
    highest = exponent + width - 1
    if exponent not in _PLACES or highest not in _PLACES:
        raise PeerError(
            f"numbers of the sum have bytes {exponent} to {highest}, expected {_PLACES[0]} to {_PLACES[-1]}"
        )


SUM = ExactSumCodec()

"""Two prices of a bit, λ, that enclose a rate: the last step of the encoder's search, robust against jumps.

The rate falls as λ rises, gently as a rule; where most numbers are near zero all lanes of the trellis fall silent
together when λ passes a critical value. A rate in between is reached with some lanes at a lower price and the others at
a higher one, and is linear in their share. Knows no numbers; it is told rates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from plait.wire.codecs.paths import Mix

_LEAST, _GREATEST = 0.01, 10.0
_ATTEMPTS = 8
_ROOM = 1.06  # error of a sample's rate; prices nearer to the target than this are not worth distinguishing
_WIDE, _NARROW = 1.5, 1.01  # rates too far apart to mix, and prices close enough to count as one (ratios)


@dataclass(frozen=True)
class PricePair:
    """Two prices and their rates in bits per number."""

    low: float
    high: float
    most: float
    least: float

    @classmethod
    def around(cls, price: float, bits: float, rate_at: Callable[[float], float]) -> PricePair:
        """Prices near `price` whose rates enclose `bits`, or come as close as a few attempts allow."""
        low, high = price / 1.1, price * 1.1
        most, least = rate_at(low), rate_at(high)
        for _ in range(_ATTEMPTS):
            ratio = (high / low) ** 2
            if least > bits and high < _GREATEST:
                low, most, high = high, least, min(high * ratio, _GREATEST)
                least = rate_at(high)
            elif most < bits and low > _LEAST:
                low, high, least = max(low / ratio, _LEAST), low, most
                most = rate_at(low)
            elif most > bits > least and most > _WIDE * least and high > _NARROW * low:
                middle = (low * high) ** 0.5
                got = rate_at(middle)
                if got > _ROOM * bits:
                    low, most = middle, got
                elif got < bits / _ROOM:
                    high, least = middle, got
                else:
                    break
            else:
                break
        return cls(low, high, most, least)

    def share(self, bits: float) -> float:
        """The share of lanes that need the low price for this rate; outside 0 to 1 if neither price will do."""
        return (bits - self.least) / max(self.most - self.least, 1e-4 * self.most, 1e-9)

    def mix(self, share: float) -> Mix:
        """Both prices; for a share outside 0 to 1 a single one, extrapolated."""
        if 0 <= share <= 1:
            return Mix(self.low, self.high, share)
        beyond = self.high * (self.low / self.high) ** min(max(share, -4.0), 5.0)
        return Mix(beyond, beyond, share)

"""How clients get to the current shadow adapter, and what that costs.

*Steps*: the shadow moves by one coded step a round, and a client is sent every step that it missed, as all were. It is
exact, and over a run every client gets each step at most once: on average as many messages per visit as there are
rounds between two of its visits.

*Keyframes*: after each round the shadow is coded anew, as one difference to the adapter that every client derives from
the run's seed. All are sent the same message, whatever they hold: one that was away for fifty rounds, a newcomer, and
one that lost everything. The shadow is as common as with steps; it only lies further from the server's master (QAT's
straight-through training, Courbariaux et al., BinaryConnect, arXiv 1511.00363: gradients at the coarse point, added to
the fine one). In the last rounds keyframes are finer, so what a run ends with is not coarse.

The cheaper way is taken. Knows no bytes and no clients' names.
"""

from __future__ import annotations

from dataclasses import dataclass

from plait.wire.codec import Codec
from plait.wire.codecs import Rate

_KEYFRAME_BITS, _FINE_BITS = 2.0, 4.0
"""Bits per parameter of a keyframe at a wire of 1 bit, and of the last ones."""
_FINE_ROUNDS = 2
"""Rounds of training that begin with a fine keyframe; a run of fewer than ten has one."""
_LEAST_FINE_RUN = 10


@dataclass(frozen=True)
class Downlink:
    """The way down of one run.

    Attributes:
        gap: rounds from one visit of a client to its next, on average; 1 if all take part in every round.
        rounds: of the run.
    """

    gap: float = 1.0
    rounds: int = 0

    def has_keyframes(self, codec: Codec) -> bool:
        """Whether a keyframe costs less than the steps that a client missed."""
        return isinstance(codec, Rate) and self.gap * codec.bits > self._keyframe_bits(codec, _KEYFRAME_BITS)

    def keyframe(self, codec: Codec, number: int) -> Codec:
        """What packs the keyframe after round `number`."""
        fine_rounds = _FINE_ROUNDS if self.rounds >= _LEAST_FINE_RUN else 0
        bits = _FINE_BITS if number >= self.rounds - fine_rounds else _KEYFRAME_BITS
        return Rate(self._keyframe_bits(codec, bits))

    def sent_bits(self, codec: Codec, number: int, age: int | None) -> float:
        """Bits per parameter that bring a client to the shadow after round `number`.

        Args:
            codec: of the run's wire.
            number: rounds finished.
            age: rounds since the shadow that the client holds; 0 for the current one, None for a newcomer, which
                derives the initial adapter.
        """
        age = number if age is None else age
        if age == 0:
            return 0.0
        if self.has_keyframes(codec):
            return self.keyframe(codec, number).bits
        return min(age * codec.bits, 32.0)

    @staticmethod
    def _keyframe_bits(codec: Codec, bits: float) -> float:
        # Each bit divides the error by as much, whatever the wire.
        return min(8.0, max(codec.bits, bits + codec.bits - 1))


def gap_of(clients: int, a_round: int) -> float:
    """Rounds between two visits of a client, where each round has `a_round` of `clients`."""
    return max(1.0, clients / a_round)

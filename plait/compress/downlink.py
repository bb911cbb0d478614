"""The way down: all clients hold the same *shadow* of the server's adapter, whatever each held before.

*Steps*, where all clients take part in every round: the shadow moves by one coded step a round, and what a step
dropped goes with the next. In plait's rounds one that missed a step needs the whole
adapter in float32; a `Broadcaster` sends the steps that it missed, as long as they are fewer bytes.

*Keyframes*, where clients are away by plan, and after a round that so many have missed that it costs less: the shadow
is coded anew, as one difference to the adapter that every client derives from the run's seed. All are sent the same
message, whatever they hold: one that was away for fifty rounds, a newcomer, and one that lost everything. The shadow
is as common as with steps; it only lies further from the server's master (QAT's straight-through training,
Courbariaux et al., BinaryConnect, arXiv 1511.00363: gradients at the coarse point, added to the fine one). In the
last rounds keyframes are finer, so what a run ends with is not coarse. A run that starts from an existing adapter
(`StartingPoint`) has one before its first round, of what lies between its seed and that adapter; later ones span that
as well, so are finer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from plait.adapters import AdapterState, add
from plait.wire.codec import Codec
from plait.wire.codecs import UNCHANGED, Rate

_LEAST_BITS, _MOST_BITS, _LAST_BITS = 1.25, 2.5, 4.0
"""Bits per parameter at a wire of 1 bit: of keyframes in short and in long runs, and of a run's last one."""
START_BITS, _CONTINUED_BITS = 8.0, 3.0
"""Bits per parameter of the first keyframe of a run that goes on from an adapter, and what its others have more."""
_WHOLE_BITS = 32.0
_SHARE_FINER = 24
"""The keyframes that the last 24th of a run's rounds begin with have a bit more."""


@dataclass(frozen=True)
class Downlink:
    """The way down of one run.

    Attributes:
        gap: rounds from one visit of a client to its next, on average; 1 if all take part in every round.
    """

    gap: float = 1.0
    rounds: int = 0
    clients: int = 0
    starts_anew: bool = True

    def has_keyframes(self, codec: Codec) -> bool:
        """Whether every round ends with a keyframe, because some clients are away by plan."""
        return isinstance(codec, Rate) and self.gap > 1

    def takes_keyframe(self, codec: Codec, number: int, missed: int) -> bool:
        """Whether round `number` ends with a keyframe; `missed` clients have not taken part in it."""
        if not isinstance(codec, Rate):
            return False
        if number == 0 or self.has_keyframes(codec):
            return True
        return missed * (_WHOLE_BITS - codec.bits) > self.clients * (self.keyframe(codec, number).bits - codec.bits)

    def keyframe(self, codec: Codec, number: int) -> Codec:
        """What packs the keyframe after round `number`; 0 of a run that goes on from an adapter."""
        if number == 0:
            return Rate(START_BITS)
        more = 0.0 if self.starts_anew else _CONTINUED_BITS
        if number >= self.rounds:
            return Rate(self._at(codec, _LAST_BITS + more))
        is_late = number >= self.rounds - max(1, self.rounds // _SHARE_FINER)
        return Rate(self._at(codec, self._bits + is_late + more))

    @property
    def _bits(self) -> float:
        # It codes all of the movement since the beginning, which grows with the rounds. For the error of one round's
        # step it would take twice the slope; half of it is what an error that the next rounds mend may cost.
        return min(_MOST_BITS, max(_LEAST_BITS, 0.35 + 0.25 * math.log2(max(1, self.rounds))))

    def sent_bits(self, codec: Codec, number: int, age: int | None) -> float:
        """Bits per parameter to the shadow after round `number` from that of `age` rounds ago; None for no adapter."""
        if age == 0:
            return 0.0
        if self.has_keyframes(codec) or (number == 0 and isinstance(codec, Rate)):
            return self.keyframe(codec, number).bits
        return codec.bits if age == 1 or (number == 1 and self.starts_anew) else _WHOLE_BITS

    @staticmethod
    def _at(codec: Codec, bits: float) -> float:
        # Each bit divides the error by as much, whatever the wire.
        return min(8.0, max(codec.bits, bits + codec.bits - 1))


def gap_of(clients: int, a_round: int) -> float:
    """Rounds between two visits of a client, where each round has `a_round` of `clients`."""
    return max(1.0, clients / a_round)


def at_least(bits: float, codec: Codec) -> Codec:
    """The codec, or the same kind with so many bits."""
    return Rate(max(bits, codec.bits)) if isinstance(codec, Rate) else codec


def take_step(held: AdapterState, step: AdapterState, codec_name: str) -> AdapterState:
    """The held adapter after a broadcast's decoded `step`."""
    # Adding zeros would turn -0.0 into 0.0, which has another digest.
    return held if codec_name == UNCHANGED else add(held, step)

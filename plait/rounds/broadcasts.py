"""The broadcasts that bring a client to the current shadow adapter, whatever it held before.

There are three forms, each sealed once and sent byte for byte the same to everyone who needs it: *nothing new*, the
*step* from the previous shadow or, of a *keyframe*, from the initial adapter, and the *whole* adapter in float32.

Keyframes are sent where clients are away by plan, and after a round that so many missed that they cost less. The shadow
is then coded anew, as one difference to the adapter that every client derives from the run's seed, so it only lies
further from the server's master (QAT's straight-through training, Courbariaux et al., BinaryConnect, arXiv 1511.00363:
gradients at the coarse point, added to the fine one). The last ones are finer, so what a run ends with is not coarse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from plait.adapters import AdapterSpec, AdapterState, Parent, add, parents_from, subtract
from plait.ledger.events import Event, start_of
from plait.rounds.hooks import Residual, unshrunk
from plait.rounds.run_state import Ranks, RunState, Track
from plait.wire.codec import Codec
from plait.wire.codecs import CODECS, UNCHANGED, Rate
from plait.wire.envelope import Direction, Encoding, Header, encode_delta, measure, read_envelope, seal, with_spec

_LEAST_BITS, _MOST_BITS, _LAST_BITS = 1.25, 2.5, 4.0
"""Bits per parameter at a wire of 1 bit: of keyframes in short and in long runs, and of a run's last one."""
_START_BITS, _CONTINUED_BITS = 8.0, 3.0
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
            return Rate(_START_BITS)
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


# Newly decomposed factors are as far from the previous ones as from zero: one bit loses a tenth of that
# step's energy, which is a tenth of the adapter's, in every round. Measured in simulations/LOG.md.
NEW_FACTORS_BITS = 4.0
"""Minimum bits per parameter of a broadcast of rotated factors."""


def follow(
    state: RunState,
    ranks: Ranks,
    base_fingerprint: bytes,
    *,
    codec: Codec,
    new_factors: bool,
    downlink: Downlink = Downlink(),
    missed: int = 0,
) -> tuple[RunState, Encoding]:
    """Move the shadows towards the master through the wire's codec, once, and keep the sealed steps or keyframes.

    Both ends take the same decoded step (`take_step`), so both hold the same bits.

    Args:
        new_factors: whether its factors have been rotated since the previous round, not moved by a small step.
    """
    codec = at_least(NEW_FACTORS_BITS, codec) if new_factors else codec
    tracks: list[Track] = []
    encodings: list[Encoding] = []
    for number, track in enumerate(state.tracks):
        wanted, origin = ranks.resized(state.adapter, number), track.shadow
        if downlink.takes_keyframe(codec, state.round, missed):
            origin = ranks.adapters[number].initial
            used = at_least(codec.bits, downlink.keyframe(codec, state.round))
            encoded = encode_delta(unshrunk(subtract(wanted, origin), used), used)
        else:
            encoded = encode_delta(Residual(subtract(wanted, origin)).to_encode(codec), codec)
        previous = origin.digest()
        shadow = take_step(origin, encoded.delta, encoded.codec.name)
        header = _header(state, ranks.adapters[number].spec.digest, base_fingerprint)
        sealed = seal(replace(header, relative_to=previous, result_digest=shadow.digest()), encoded)
        tracks.append(Track(shadow, previous, sealed.data))
        encodings.append(sealed.encoding)
    return replace(state, tracks=tuple(tracks)), encodings[0]


def take_step(held: AdapterState, step: AdapterState, codec_name: str) -> AdapterState:
    """The held adapter after a broadcast's decoded `step`."""
    # Adding zeros would turn -0.0 into 0.0, which has another digest.
    return held if codec_name == UNCHANGED else add(held, step)


@dataclass(eq=False)
class Broadcasts:
    """The sealed broadcasts that lead to one state's shadows."""

    state: RunState
    ranks: Ranks
    base_fingerprint: bytes

    def __post_init__(self) -> None:
        self._sealed: dict[tuple[str, int], bytes] = {}
        self._costs: dict[int, Encoding] = {}

    def _once(self, form: str, track: int, make: Callable[[], bytes]) -> bytes:
        if (form, track) not in self._sealed:
            self._sealed[form, track] = make()
        return self._sealed[form, track]

    def leading_from(self, held: bytes, track: int) -> bytes:
        """The broadcast for a client that holds the adapter with digest `held` (empty: neither adapter nor spec)."""
        newest, spec = self.state.tracks[track], self.ranks.adapters[track].spec
        digest = newest.shadow.digest()
        if held == digest:

            def unchanged() -> bytes:
                nothing = encode_delta(AdapterState.zeros(newest.shadow.layout), CODECS[UNCHANGED])
                return seal(self._to(digest, spec, relative_to=digest), nothing).data

            return self._once("unchanged", track, unchanged)
        if held and (held == newest.previous or self.is_derivable(track)):
            return newest.broadcast
        if self.is_derivable(track):
            return self._once("derived", track, lambda: with_spec(newest.broadcast, spec.text))
        return self.whole(track)

    def is_derivable(self, track: int) -> bool:
        """Whether the newest broadcast leads from the initial adapter, which every client derives from the spec."""
        return self.state.tracks[track].previous == self.ranks.adapters[track].initial.digest()

    def whole(self, track: int) -> bytes:
        """The broadcast for a client that has nothing that others could lead from."""
        shadow, spec = self.state.tracks[track].shadow, self.ranks.adapters[track].spec
        header = self._to(shadow.digest(), spec, spec_json=spec.text)
        return self._once("whole", track, lambda: seal(header, encode_delta(shadow, CODECS["fp32"])).data)

    def _to(self, digest: bytes, spec: AdapterSpec, *, relative_to: bytes = b"", spec_json: str = "") -> Header:
        header = _header(self.state, spec.digest, self.base_fingerprint)
        return replace(header, result_digest=digest, relative_to=relative_to, spec_json=spec_json)

    def cost(self, broadcast: bytes, track: int) -> Encoding:
        """The size of a broadcast from `leading_from`; thousands of clients are sent the same one."""
        # All of them live as long as this object, so no other object has their ids.
        if id(broadcast) not in self._costs:
            sent = read_envelope(broadcast, max_bytes=len(broadcast))
            self._costs[id(broadcast)] = measure(sent, layout=self.state.tracks[track].shadow.layout)
        return self._costs[id(broadcast)]


def at_least(bits: float, codec: Codec) -> Codec:
    """The codec, or the same kind with so many bits."""
    return Rate(max(bits, codec.bits)) if isinstance(codec, Rate) else codec


def _header(state: RunState, spec_digest: bytes, base_fingerprint: bytes) -> Header:
    return Header(
        direction=Direction.BROADCAST,
        run_id=state.run_id,
        round=state.round,
        client="",
        base_fingerprint=base_fingerprint,
        spec_digest=spec_digest,
    )


@dataclass(frozen=True, eq=False)
class StartingPoint:
    """The starting point of a run."""

    parents: tuple[Parent, ...] = ()  # the adapters that it is derived from; none for a seed
    adapter: AdapterState | None = None  # the master's values; None for those of the seed
    lost: float = 0.0  # fraction of the parents' products that the rank cannot hold, 0 to 1


def starting_state(
    state: RunState, start: StartingPoint, ranks: Ranks, base_fingerprint: bytes, *, codec: Codec
) -> RunState:
    """The state before round 1 of a run with this starting point."""
    if start.adapter is not None:
        state = replace(state, adapter=start.adapter)
        if isinstance(codec, Rate):
            state, _ = follow(state, ranks, base_fingerprint, codec=codec, new_factors=False)
        else:
            tracks = tuple(Track(ranks.resized(start.adapter, number)) for number in range(len(state.tracks)))
            state = replace(state, tracks=tracks)
    return state


def parents_in(events: Sequence[Event]) -> tuple[Parent, ...]:
    """The adapters that the run of a ledger started from."""
    started = start_of(events)
    return parents_from([dict(parent) for parent in started.parents]) if started and started.parents else ()

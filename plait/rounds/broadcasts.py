"""The broadcasts that bring a client to the current shadow adapter, whatever it held before.

There are three forms, each sealed once and sent byte for byte the same to everyone who needs it: *nothing new* (the
client is up to date), the *step* from the previous shadow or, of a keyframe, from the initial adapter, and the *whole*
adapter in exact float32 for everyone else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from plait.adapters import AdapterSpec, AdapterState, add, subtract
from plait.rounds.downlink import Downlink
from plait.rounds.error_feedback import Residual, unshrunk
from plait.rounds.run_state import RunState, Track
from plait.rounds.tracks import Ranks
from plait.wire.codec import Codec
from plait.wire.codecs import UNCHANGED, Fp32, Rate
from plait.wire.envelope import Direction, Encoding, Header, encode_delta, measure, read_envelope, seal, with_spec

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
    downlink: Downlink = Downlink(),  # noqa: B008 (frozen)
    missed: int = 0,
) -> tuple[RunState, Encoding]:
    """Move the shadows towards the master through the wire's codec, once, and keep the sealed steps or keyframes.

    Both ends take the same decoded step (`take_step`), so both hold the same bits.

    Args:
        new_factors: whether its factors have been rotated since the previous round, not moved by a small step.
        missed: clients that do not hold the shadow before.

    Returns:
        (the state, size and error of the step of the master's own rank).
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
        self._unchanged: dict[int, bytes] = {}
        self._whole: dict[int, bytes] = {}
        self._derived: dict[int, bytes] = {}
        self._costs: dict[int, Encoding] = {}

    def leading_from(self, held: bytes, track: int) -> bytes:
        """The broadcast for a client that holds the adapter with digest `held` (empty: neither adapter nor spec)."""
        shadow = self.state.tracks[track].shadow
        digest = shadow.digest()
        spec = self.ranks.adapters[track].spec
        if held == digest:
            if track not in self._unchanged:
                nothing = encode_delta(AdapterState.zeros(shadow.layout), Fp32())
                self._unchanged[track] = seal(self._to(digest, spec, relative_to=digest), nothing).data
            return self._unchanged[track]
        newest = self.state.tracks[track]
        if held and held == newest.previous:
            return newest.broadcast
        if self.is_derivable(track):
            if held:
                return newest.broadcast
            if track not in self._derived:
                self._derived[track] = with_spec(newest.broadcast, spec.text)
            return self._derived[track]
        return self.whole(track)

    def is_derivable(self, track: int) -> bool:
        """Whether the newest broadcast leads from the initial adapter, which every client derives from the spec."""
        return self.state.tracks[track].previous == self.ranks.adapters[track].initial.digest()

    def whole(self, track: int) -> bytes:
        """The broadcast for a client that has nothing that others could lead from."""
        shadow, spec = self.state.tracks[track].shadow, self.ranks.adapters[track].spec
        if track not in self._whole:
            whole = encode_delta(shadow, Fp32())
            self._whole[track] = seal(self._to(shadow.digest(), spec, spec_json=spec.text), whole).data
        return self._whole[track]

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

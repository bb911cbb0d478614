"""The broadcasts that bring a client to the current shadow adapter, whatever it held before.

There are three forms, each sealed once and sent byte for byte the same to everyone who needs it: *nothing new*, the
*step* from the previous shadow or, of a *keyframe*, from the initial adapter, and the *whole* adapter in float32.

Which, and when: `plait.compress.downlink`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from plait.adapters import AdapterSpec, AdapterState, Parent, parents_from, subtract
from plait.compress.downlink import Downlink, at_least, take_step
from plait.compress.feedback import pack, unshrunk
from plait.ledger.events import Event, start_of
from plait.rounds.run_state import Ranks, RunState, Track
from plait.wire.codec import Codec
from plait.wire.codecs import CODECS, UNCHANGED, Rate
from plait.wire.encoding import Encoding, encode_delta
from plait.wire.envelope import Direction, Header, measure, read_envelope, seal, with_spec

# Newly decomposed factors are as far from the previous ones as from zero: one bit loses a tenth of that
# step's energy, which is a tenth of the adapter's, in every round. Measured in simulations/LOG.md.
NEW_FACTORS_BITS = 4.0
"""Minimum bits per parameter of a broadcast of rotated factors."""
_EVERYBODY = Downlink()


def follow(
    state: RunState,
    ranks: Ranks,
    base_fingerprint: bytes,
    *,
    codec: Codec,
    new_factors: bool,
    downlink: Downlink = _EVERYBODY,
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
            encoded, _ = pack(subtract(wanted, origin), codec)
        previous = origin.digest()
        shadow = take_step(origin, encoded.delta, encoded.codec.name)
        header = _header(state, ranks.adapters[number].spec.digest, base_fingerprint)
        sealed = seal(replace(header, relative_to=previous, result_digest=shadow.digest()), encoded)
        tracks.append(Track(shadow, previous, sealed.data))
        encodings.append(sealed.encoding)
    return replace(state, tracks=tuple(tracks)), encodings[0]


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

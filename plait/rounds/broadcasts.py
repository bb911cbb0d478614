"""What the server sends to a client so that it holds the current shadow adapter, whatever it held before.

Three forms, each sealed once and sent to everyone who needs it byte for byte the same: *nothing new* (the client is up
to date), the *step* from the previous shadow, and the *whole* adapter in exact float32 for everyone else.
"""

from __future__ import annotations

from dataclasses import replace

from plait.adapters import AdapterSpec, AdapterState, add, subtract
from plait.rounds.error_feedback import encode_with_gain
from plait.rounds.run_state import RunState
from plait.wire.codec import Codec
from plait.wire.codecs import codec_for
from plait.wire.envelope import Direction, Encoding, Header, encode_delta, seal


def follow(state: RunState, spec: AdapterSpec, base_fingerprint: bytes, codec: Codec) -> tuple[RunState, Encoding]:
    """Let the shadow follow the master through the codec, once, and keep the sealed step.

    Both ends take the same decoded step (`take_step`), so both hold the same bits.
    """
    previous = state.shadow.digest()
    encoded = encode_with_gain(subtract(state.adapter, state.shadow), codec)
    shadow = take_step(state.shadow, encoded.delta, encoded.codec.name)
    state = replace(state, shadow=shadow, previous=previous)
    sealed = seal(replace(_header(state, spec, base_fingerprint), relative_to=previous), encoded)
    return replace(state, broadcast=sealed.data), sealed.encoding


def take_step(held: AdapterState, step: AdapterState, codec_name: str) -> AdapterState:
    """The adapter that a broadcast's decoded `step` makes of the one that is held."""
    # Adding zeros would turn -0.0 into 0.0, another digest.
    return held if codec_name == "unchanged" else add(held, step)


class Broadcasts:
    """The sealed broadcasts that lead to one state's shadow."""

    def __init__(self, state: RunState, spec: AdapterSpec, base_fingerprint: bytes) -> None:
        self._state = state
        self._header = _header(state, spec, base_fingerprint)
        self._spec_text = spec.text
        self._digest = self._header.result_digest
        self._unchanged: bytes | None = None
        self._whole: bytes | None = None

    def leading_from(self, held: bytes) -> bytes:
        """The broadcast for a client that holds the adapter with digest `held` (empty: none, nor the spec)."""
        if held == self._digest:
            if self._unchanged is None:
                zero = AdapterState.zeros(self._state.shadow.layout)
                nothing = encode_delta(zero, codec_for("fp32"))
                self._unchanged = seal(replace(self._header, relative_to=self._digest), nothing).data
            return self._unchanged
        if held and held == self._state.previous:
            return self._state.broadcast
        if self._whole is None:
            whole = encode_delta(self._state.shadow, codec_for("fp32"))
            self._whole = seal(replace(self._header, spec_json=self._spec_text), whole).data
        return self._whole


def _header(state: RunState, spec: AdapterSpec, base_fingerprint: bytes) -> Header:
    return Header(
        direction=Direction.BROADCAST,
        run_id=state.run_id,
        round=state.round,
        client="",
        base_fingerprint=base_fingerprint,
        spec_digest=spec.digest,
        result_digest=state.shadow.digest(),
    )

"""A user's own codec: used as any other, and safe whatever it does with a peer's bytes."""

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import pytest
from pydantic import Field

from plait.adapters import AdapterState, Layout
from plait.errors import ConfigError, PeerError
from plait.plugins import Kind, reference
from plait.wire.codec import DECODED, EncodedPayload
from plait.wire.codecs import codec_for, codec_numbered, table
from plait.wire.codecs.plain import Fp32
from plait.wire.encoding import encode_delta
from plait.wire.envelope import Direction, Header, open_envelope, read_envelope, seal

LAYOUT = Layout.of({"a": (4, 4)})
DELTA = AdapterState(LAYOUT, np.random.default_rng(0).normal(size=LAYOUT.size).astype(np.float32))
HEADER = Header(Direction.UPDATE, b"r" * 16, 1, "ada", b"b" * 32, b"s" * 32, relative_to=b"x" * 32)


@dataclass(frozen=True)
class Half:
    """Two bytes per number."""

    scale: Annotated[float, Field(gt=0)] = 1.0

    number = 1234
    bits = 16.0
    distortion = 1e-7

    def encode(self, delta):
        return EncodedPayload(b"", (self.scale * delta.flat).astype(np.float16).tobytes())

    def decode(self, parameters, payload, layout):
        return np.frombuffer(payload, np.float16).astype(np.float32) / np.float32(self.scale)

    def max_payload_bytes(self, layout):
        return 2 * layout.size


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    monkeypatch.setattr(table, "_OWN", {})


def test_a_delta_travels_under_its_experimental_number(monkeypatch):
    codec = codec_for(reference(Kind.CODEC, Half))
    sealed = seal(HEADER, encode_delta(DELTA, codec))
    assert read_envelope(sealed.data, max_bytes=1 << 20).codec == 1234
    opened = open_envelope(sealed.data, layout=LAYOUT)
    np.testing.assert_array_equal(opened.delta.flat, DELTA.flat.astype(np.float16))
    monkeypatch.setattr(table, "_OWN", {})
    with pytest.raises(PeerError, match="codec of the payload is 1234, expected one of"):
        open_envelope(sealed.data, layout=LAYOUT)


def test_the_same_bytes_under_other_options_are_other_numbers():
    with DECODED.kept():
        data = seal(HEADER, encode_delta(DELTA, codec_for(reference(Kind.CODEC, Half)))).data
        once = open_envelope(data, layout=LAYOUT).delta
        codec_for(f"{reference(Kind.CODEC, Half)}:scale=4")
        again = open_envelope(data, layout=LAYOUT).delta
    np.testing.assert_array_equal(again.flat, once.flat / 4)


def test_what_comes_back_counts_and_not_what_the_encoder_says():
    class Boastful(Half):
        def encode(self, delta):
            return replace(super().encode(delta), decoded=delta.flat)

    encoded = encode_delta(DELTA, codec_for(reference(Kind.CODEC, Boastful)))
    np.testing.assert_array_equal(encoded.delta.flat, DELTA.flat.astype(np.float16))


@pytest.mark.parametrize("number", [0, 2, 4, 10, 999, 2000])
def test_no_number_outside_the_experimental_range_is_taken(number):
    name = reference(Kind.CODEC, type("Taken", (Half,), {"number": number}))
    with pytest.raises(ConfigError, match="expected 1000 to 1999"):
        codec_for(name)
    assert isinstance(codec_numbered(2), Fp32)


def test_two_codecs_cannot_have_one_number():
    codec_for(reference(Kind.CODEC, Half))
    with pytest.raises(ConfigError, match="both have number 1234"):
        codec_for(reference(Kind.CODEC, type("Other", (Half,), {})))


@pytest.mark.parametrize("payload", [b"", b"x", b"x" * 31, b"\xff" * 32, b"x" * 1000], ids=len)
def test_bytes_that_it_cannot_take_are_the_peers_fault(payload):
    with pytest.raises(PeerError):
        codec_for(reference(Kind.CODEC, Half)).decode(b"", payload, LAYOUT)


def test_what_it_lets_out_is_checked():
    class Loud(Half):
        def decode(self, parameters, payload, layout):
            raise RuntimeError(bytes(payload))

    class Long(Half):
        def max_payload_bytes(self, layout):
            return 3

    with pytest.raises(PeerError, match=r"cannot be decoded: RuntimeError$"):
        codec_for(reference(Kind.CODEC, Loud)).decode(b"", b"secret", LAYOUT)
    table._OWN.clear()
    with pytest.raises(ConfigError, match="made 32 bytes, expected at most its own limit of 3"):
        codec_for(reference(Kind.CODEC, Long)).encode(DELTA)

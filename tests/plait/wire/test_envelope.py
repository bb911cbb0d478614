import dataclasses
import hashlib
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from plait.adapters import AdapterState, Layout
from plait.errors import PeerError
from plait.v1 import envelope_pb2 as pb
from plait.v1.envelope_pb2 import Envelope
from plait.wire.codec import DECODED
from plait.wire.codecs import Rate, codec_for
from plait.wire.encoding import encode_delta
from plait.wire.envelope import (
    Direction,
    Header,
    join_frame,
    measure,
    open_envelope,
    payload_digest,
    read_envelope,
    read_header,
    seal,
    split_frame,
)

PARTS = st.binary(max_size=300)


@given(PARTS, PARTS, PARTS)
def test_frame_is_what_protobuf_writes(header, payload, signature):
    message = Envelope(schema=1, header=header, payload=payload, signature=signature)
    assert join_frame(header, payload, signature) == message.SerializeToString(deterministic=True)


@given(st.binary(max_size=40))
def test_split_accepts_only_what_join_writes(data):
    try:
        frame = split_frame(b"\x08\x01" + data)
    except PeerError:
        return
    assert join_frame(bytes(frame.header), frame.payload, bytes(frame.signature)) == b"\x08\x01" + data


LAYOUT = Layout.of({"a": (2, 3), "b": (5,)})
DELTA = AdapterState(LAYOUT, np.linspace(-1, 1, LAYOUT.size, dtype=np.float32))
UPDATE = Header(Direction.UPDATE, b"r" * 16, 1, "alice", b"b" * 32, b"s" * 32, relative_to=b"a" * 32, examples=7)
BROADCAST = Header(Direction.BROADCAST, b"r" * 16, 1, "", b"b" * 32, b"s" * 32, result_digest=b"z" * 32)

NAMES = st.text(min_size=1, max_size=128).filter(str.isprintable)
METRICS = st.dictionaries(NAMES, st.floats(allow_nan=False, allow_infinity=False), max_size=5)
DIGESTS = st.binary(min_size=32, max_size=32)
COMMON = {
    "run_id": st.binary(min_size=16, max_size=16),
    "round": st.integers(0, 2**32 - 1),
    "base_fingerprint": DIGESTS,
    "spec_digest": DIGESTS,
    "relative_to": DIGESTS | st.just(b""),
    "metrics": METRICS,
}
HEADERS = st.builds(
    Header, direction=st.just(Direction.UPDATE), client=NAMES, examples=st.integers(0, 2**63 - 1), **COMMON
) | st.builds(
    Header,
    direction=st.just(Direction.BROADCAST),
    client=NAMES | st.just(""),
    result_digest=DIGESTS,
    spec_json=st.text(),
    **COMMON,
)
DELTAS = hnp.arrays(np.float32, LAYOUT.size, elements=st.floats(width=32, allow_nan=False, allow_infinity=False))


@pytest.mark.slow
@given(header=HEADERS, flat=DELTAS, bits=st.sampled_from(["fp32", "bf16"]))
def test_the_receiver_decodes_what_the_sender_was_told(header, flat, bits):
    sealed = seal(header, encode_delta(AdapterState(LAYOUT, flat), codec_for(bits)))
    opened = open_envelope(sealed.data, layout=LAYOUT)
    assert opened.header == read_header(sealed.data, max_bytes=len(sealed.data)) == sealed.header == header
    assert opened.delta.flat.tobytes() == sealed.delta.flat.tobytes()
    ours, theirs = sealed.encoding, opened.encoding
    assert dataclasses.replace(ours, distortion=None, codec_s=theirs.codec_s) == theirs


def test_bytes_that_are_reported_are_bytes_that_travel():
    sealed = seal(UPDATE, encode_delta(DELTA, codec_for("bf16")))
    assert sealed.encoding.envelope_bytes == len(sealed.data)
    assert sealed.encoding.payload_bytes == 2 * LAYOUT.size == len(pb.Envelope.FromString(sealed.data).payload)
    assert sealed.encoding.bits_per_parameter == 16


@pytest.mark.parametrize("bits", ["fp32", "bf16"])
def test_a_delta_of_zeros_costs_no_payload(bits):
    encoding = seal(UPDATE, encode_delta(AdapterState.zeros(LAYOUT), codec_for(bits))).encoding
    assert (encoding.codec, encoding.payload_bytes, encoding.bits_per_parameter) == ("unchanged", 0, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_delta_that_is_not_finite_is_not_sent(bad):
    flat = np.ones(LAYOUT.size, np.float32)
    flat[7] = bad
    with pytest.raises(PeerError, match="tensor 'b' holds NaN or infinity"):
        encode_delta(AdapterState(LAYOUT, flat), codec_for("fp32"))


def test_reading_the_header_needs_no_payload():
    data = seal(UPDATE, encode_delta(DELTA, codec_for("fp32"))).data
    spoilt = data[:-4] + b"\xff\xff\xff\xff"
    assert read_header(spoilt, max_bytes=len(data)) == UPDATE
    with pytest.raises(PeerError, match="digest of the payload"):
        open_envelope(spoilt, layout=LAYOUT)


def test_opening_exact_float32_copies_no_payload():
    large = Layout.of({"a": (1 << 18,)})
    data = seal(UPDATE, encode_delta(AdapterState(large, np.ones(large.size, np.float32)), codec_for("fp32"))).data
    tracemalloc.start()
    try:
        opened = open_envelope(data, layout=large)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert opened.delta.flat[-1] == 1
    assert peak_bytes < len(data) // 2


def test_payload_digest_is_as_specified():
    by_hand = hashlib.sha256(b"\x02\0\0\0" + b"\x03\0\0\0" + b"abc" + b"payload").digest()
    assert payload_digest(2, b"abc", b"payload") == by_hand


@pytest.mark.parametrize("bits", ["fp32", "bf16", "1"])
def test_measuring_says_what_opening_would_without_unpacking(bits):
    data = seal(UPDATE, encode_delta(DELTA, codec_for(bits))).data
    opened = open_envelope(data, layout=LAYOUT)
    assert measure(read_envelope(data, max_bytes=len(data)), layout=LAYOUT) == replace(opened.encoding, codec_s=0.0)


WIDE = Layout.of({"a": (40, 30)})
NOISE = AdapterState(WIDE, np.random.default_rng(0).standard_normal(WIDE.size).astype(np.float32))


@pytest.fixture
def decoded(monkeypatch):
    """What codecs were asked to decode."""
    asked, decode = [], Rate.decode
    monkeypatch.setattr(Rate, "decode", lambda *given: asked.append(given) or decode(*given))
    return asked


def test_a_process_of_both_sides_decodes_nothing_and_gets_the_same(decoded):
    encoded = encode_delta(NOISE, Rate(1.0))
    data = seal(UPDATE, encoded).data
    apart = open_envelope(data, layout=WIDE).delta
    assert len(decoded) == 1
    with DECODED.kept():
        data = seal(UPDATE, encoded).data
        together = open_envelope(data, layout=WIDE).delta
    assert len(decoded) == 1
    assert together.digest() == apart.digest() == encoded.delta.digest()

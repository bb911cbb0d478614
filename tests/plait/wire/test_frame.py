import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.errors import PeerError
from plait.v1.envelope_pb2 import Envelope
from plait.wire.frame import join_frame, split_frame

PARTS = st.binary(max_size=300)


@given(PARTS, PARTS, PARTS)
def test_frame_is_what_protobuf_writes(header, payload, signature):
    message = Envelope(schema=1, header=header, payload=payload, signature=signature)
    assert join_frame(header, payload, signature) == message.SerializeToString(deterministic=True)


@given(PARTS, PARTS, PARTS)
def test_split_inverts_join(header, payload, signature):
    frame = split_frame(join_frame(header, payload, signature))
    assert (frame.header, frame.payload, frame.signature) == (header, payload, signature)


@given(st.binary(max_size=40))
def test_split_accepts_only_what_join_writes(data):
    try:
        frame = split_frame(b"\x08\x01" + data)
    except PeerError:
        return
    assert join_frame(bytes(frame.header), frame.payload, bytes(frame.signature)) == b"\x08\x01" + data


def test_payload_is_a_view_of_the_envelope():
    data = join_frame(b"h", b"payload")
    assert split_frame(data).payload.obj is data


def test_lengths_over_two_gibibytes_are_refused(monkeypatch):
    monkeypatch.setattr("plait.wire.frame.MAX_FRAME_BYTES", 10)
    assert len(join_frame(b"1234", b"56"[:0])) == 8
    with pytest.raises(PeerError, match="11 bytes, expected at most 10"):
        join_frame(b"1234", b"5")

import hashlib

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from plait.transport import protocol
from plait.transport.protocol import chunks_of, pack_chunk, pack_part, unpack_chunk, unpack_part
from plait.v1 import federation_pb2 as pb


def test_enrolment_bytes_are_the_parts_in_the_order_that_the_protocol_file_states():
    signed = protocol.enrolment_bytes(
        challenge_nonce=b"c" * 32, hello_nonce=b"h" * 32, public_key=b"k" * 32, name="zoë"
    )

    assert signed == b"plait.v1.enrol\0" + b"c" * 32 + b"h" * 32 + b"k" * 32 + "zoë".encode()


def test_a_nodes_number_follows_from_its_name_and_fits_into_63_bits():
    for name in ("alice", "bob", "x" * 64):
        digest = hashlib.sha256(name.encode()).digest()
        assert protocol.node_number(name) == int.from_bytes(digest[:8], "big") >> 1 < 1 << 63


SIZES = [1, 127, 128, 16383, 16384, 1 << 20, 2097151, 2097152]


@pytest.mark.parametrize("size", SIZES)
def test_packed_bytes_are_those_of_protobuf_both_ways(size):
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)

    for view in (data, memoryview(data)):
        assert pack_chunk(view) == pb.Chunk(data=data).SerializeToString()
        assert pack_part(view) == pb.UploadPart(data=data).SerializeToString()
    assert bytes(unpack_chunk(pb.Chunk(data=data).SerializeToString())) == data
    assert bytes(unpack_part(pb.UploadPart(data=data).SerializeToString())) == data


def test_a_start_comes_out_as_it_went_in():
    start = pb.UploadStart(session=b"s", task_id="1.train.0", size=5, sha256=b"d", offset=2)

    assert unpack_part(pb.UploadPart(start=start).SerializeToString()) == start
    assert unpack_part(b"") == b""


@given(st.binary(max_size=40))
def test_any_bytes_mean_what_they_mean_to_protobuf(message):
    for unpack, kind in ((unpack_chunk, pb.Chunk), (unpack_part, pb.UploadPart)):
        try:
            expected = kind.FromString(message)
        except DecodeError:
            with pytest.raises(DecodeError):
                unpack(message)
            continue
        found = unpack(message)
        if kind is pb.UploadPart and expected.HasField("start"):
            assert found == expected.start
        else:
            assert bytes(found) == expected.data


DATA = bytes(range(256)) * 3


@pytest.mark.parametrize("offset", [0, 1, 99, 100, 101, len(DATA) - 1, len(DATA), len(DATA) + 5])
@pytest.mark.parametrize("chunk_bytes", [1, 100, len(DATA), 10_000])
@pytest.mark.parametrize("kind", [bytes, memoryview])
def test_chunks_joined_are_what_follows_the_offset(kind, offset, chunk_bytes):
    chunks = list(chunks_of(kind(DATA), offset, chunk_bytes=chunk_bytes))

    assert b"".join(chunks) == DATA[offset:]
    assert all(0 < len(chunk) <= chunk_bytes for chunk in chunks)


def test_a_chunk_is_a_view_and_no_copy():
    (chunk,) = chunks_of(DATA)

    assert chunk.obj is DATA

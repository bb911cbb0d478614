import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from plait.transport.framing import pack_chunk, pack_part, unpack_chunk, unpack_part
from plait.v1 import federation_pb2 as pb

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

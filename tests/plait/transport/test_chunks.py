import pytest

from plait.transport.chunks import chunks_of

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

import io

import pytest

from plait.transport.chunks import chunks_of_bytes, chunks_of_file

DATA = bytes(range(256)) * 3


@pytest.mark.parametrize("offset", [0, 1, 99, 100, 101, len(DATA) - 1, len(DATA), len(DATA) + 5])
@pytest.mark.parametrize("chunk_bytes", [1, 100, len(DATA), 10_000])
def test_chunks_joined_are_what_follows_the_offset(offset, chunk_bytes):
    of_bytes = list(chunks_of_bytes(DATA, offset, chunk_bytes=chunk_bytes))
    of_file = list(chunks_of_file(io.BytesIO(DATA), offset, chunk_bytes=chunk_bytes))

    assert b"".join(of_bytes) == DATA[offset:]
    assert of_file == of_bytes
    assert all(0 < len(chunk) <= chunk_bytes for chunk in of_bytes)


def test_a_file_is_read_from_the_offset_wherever_it_stands():
    file = io.BytesIO(DATA)
    file.seek(50)

    assert b"".join(chunks_of_file(file, 7)) == DATA[7:]

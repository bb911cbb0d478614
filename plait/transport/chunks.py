"""A body or an answer as a stream of chunks, from any offset.

Knows nothing of the messages that carry the chunks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

from plait.transport.protocol import CHUNK_BYTES


def chunks_of_bytes(data: bytes, offset: int = 0, *, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
    """The bytes from `offset` on, one chunk copied at a time; nothing if it is at or beyond the end."""
    for start in range(offset, len(data), chunk_bytes):
        yield data[start : start + chunk_bytes]


def chunks_of_file(file: BinaryIO, offset: int = 0, *, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
    """The bytes of an open file from `offset` to its end, one chunk in memory at a time.

    Raises:
        OSError: cannot be read.
    """
    file.seek(offset, os.SEEK_SET)
    while chunk := file.read(chunk_bytes):
        yield chunk

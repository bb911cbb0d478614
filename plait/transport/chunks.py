"""A body or an answer as a stream of chunks, from any offset.

Knows nothing of the messages that carry the chunks.
"""

from __future__ import annotations

from collections.abc import Iterator

from plait.transport.framing import Data
from plait.transport.protocol import CHUNK_BYTES


def chunks_of(data: Data, offset: int = 0, *, chunk_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
    """Views of the bytes from `offset` on, none of them copied; nothing if it is at or beyond the end."""
    view = memoryview(data)
    for start in range(offset, len(view), chunk_bytes):
        yield view[start : start + chunk_bytes]

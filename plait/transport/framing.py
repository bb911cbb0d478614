"""Messages that contain only data, `Chunk` and `UploadPart`, without the two copies that protobuf makes of it.

The bytes are protobuf's own: tag, length, data. Any other form is left to protobuf.
"""

from __future__ import annotations

from typing import TypeAlias

from plait.v1 import federation_pb2 as pb

Data: TypeAlias = "bytes | memoryview"

# Field number << 3 | 2 (length-delimited), as federation.proto numbers them.
_CHUNK_DATA, _PART_DATA = 1 << 3 | 2, 2 << 3 | 2
_MAX_LENGTH_BYTES = 4


def pack_chunk(data: Data) -> bytes:
    """A serialised `Chunk`."""
    return _packed(_CHUNK_DATA, data)


def unpack_chunk(message: bytes) -> Data:
    """The data of a serialised `Chunk`.

    Raises:
        google.protobuf.message.DecodeError: it is not one.
    """
    data = _plain(_CHUNK_DATA, message)
    return pb.Chunk.FromString(message).data if data is None else data


def pack_part(data: Data) -> bytes:
    """A serialised `UploadPart` with data."""
    return _packed(_PART_DATA, data)


def unpack_part(message: bytes) -> Data | pb.UploadStart:
    """The data of a serialised `UploadPart`, or its start; no data if it has neither.

    Raises:
        google.protobuf.message.DecodeError: it is not one.
    """
    data = _plain(_PART_DATA, message)
    if data is not None:
        return data
    part = pb.UploadPart.FromString(message)
    return part.start if part.HasField("start") else part.data


def _packed(tag: int, data: Data) -> bytes:
    head = bytearray((tag,))
    length = len(data)
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return b"".join((head, data))


def _plain(tag: int, message: bytes) -> memoryview | None:
    """The data after tag and length, if there is nothing else."""
    if not message or message[0] != tag:
        return None
    length = 0
    for position, byte in enumerate(message[1 : 1 + _MAX_LENGTH_BYTES]):
        length |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:
            start = 2 + position
            return memoryview(message)[start:] if len(message) - start == length else None
    return None

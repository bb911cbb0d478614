"""The numbers and bytes on which both ends of the federation protocol agree (federation.proto), and chunk streams."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from plait.v1 import federation_pb2 as pb

Data: TypeAlias = bytes | memoryview

PROTOCOL_VERSION = 1
"""The version that both ends speak; a server refuses nodes with any other."""

CHUNK_BYTES = 1 << 20
"""Bytes of a body or an answer per message, and the most that are allowed.

A message costs the server's event loop about 0.2 ms, whatever its size; both ends hold up to three for each transfer
in progress.
"""

HEAD_BYTES = 65536
"""Largest `Work.head`, and largest message that the server accepts before a node has proved its key."""

MAX_MESSAGE_BYTES = CHUNK_BYTES + HEAD_BYTES
"""The largest message on the wire, in either direction."""

MESSAGE_TYPES: Mapping[str, str] = {
    "describe": "query",
    "train": "train",
    "evaluate": "evaluate",
    "judge": "evaluate.judge",
    # Of its own, so that a question about data and one of a masked sum do not displace each other.
    "mask": "query.mask",
}
"""What messages call the purposes of tasks (`plait.rounds.channel.Purpose`)."""

NONCE_BYTES = 32
SESSION_BYTES = 32
DIGEST_BYTES = 32

_ENROLMENT = b"plait.v1.enrol\0"


def enrolment_bytes(*, challenge_nonce: bytes, hello_nonce: bytes, public_key: bytes, name: str) -> bytes:
    """The bytes that a node signs to prove its key: all have 32 but the name, which therefore comes last."""
    return b"".join((_ENROLMENT, challenge_nonce, hello_nonce, public_key, name.encode()))


def node_number(name: str) -> int:
    """The number of a node: the same after every reconnect, positive and below 2^63."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


def chunks_of(data: Data, offset: int = 0, *, chunk_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
    """Views of the bytes from `offset` on, none of them copied; nothing if it is at or beyond the end."""
    view = memoryview(data)
    for start in range(offset, len(view), chunk_bytes):
        yield view[start : start + chunk_bytes]


# Field number << 3 | 2 (length-delimited), as federation.proto numbers them.
_CHUNK_DATA, _PART_DATA = 1 << 3 | 2, 2 << 3 | 2
_MAX_LENGTH_BYTES = 4


def pack_chunk(data: Data) -> bytes:
    """A serialised `Chunk`."""
    return _packed(_CHUNK_DATA, data)


def unpack_chunk(message: bytes) -> Data:
    """The data of a serialised `Chunk`; protobuf's DecodeError if it is none."""
    data = _plain(_CHUNK_DATA, message)
    return pb.Chunk.FromString(message).data if data is None else data


def pack_part(data: Data) -> bytes:
    """A serialised `UploadPart` with data."""
    return _packed(_PART_DATA, data)


def unpack_part(message: bytes) -> Data | pb.UploadStart:
    """The data of a serialised `UploadPart`, or its start; protobuf's DecodeError if it is none."""
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

"""The outer frame of an envelope: version, header, payload and signature, split without copying the payload.

Reads and writes the canonical bytes of the protobuf message plait.v1.Envelope by hand, because protobuf's own classes
copy a payload of many megabytes several times. Knows nothing of the meaning of the four parts.
"""

from __future__ import annotations

from dataclasses import dataclass

from plait.errors import PeerError
from plait.wire.canonical import SCHEMA, check_schema

MAX_FRAME_BYTES = 2**31 - 1  # the limit of protobuf libraries

# Tag bytes: field number << 3 | wire type (0 varint, 2 length-delimited).
_SCHEMA_TAG = 1 << 3
_PART_TAGS = (2 << 3 | 2, 3 << 3 | 2, 4 << 3 | 2)


@dataclass(frozen=True)
class Frame:
    """The parts of an envelope, as views of its bytes; an absent part is empty."""

    header: memoryview
    payload: memoryview
    signature: memoryview


def join_frame(header: bytes, payload: bytes | memoryview, signature: bytes = b"") -> bytes:
    """The bytes of an envelope with these parts.

    Raises:
        PeerError: they are more than 2 GiB.
    """
    pieces: list[bytes | memoryview] = [bytes((_SCHEMA_TAG, SCHEMA))]
    for tag, part in zip(_PART_TAGS, (header, payload, signature), strict=True):
        if len(part):
            pieces += [bytes((tag,)), varint(len(part)), part]
    size_bytes = sum(len(piece) for piece in pieces)
    if size_bytes > MAX_FRAME_BYTES:
        raise PeerError(f"envelope would have {size_bytes} bytes, expected at most {MAX_FRAME_BYTES}")
    return b"".join(pieces)


def split_frame(data: bytes) -> Frame:
    """Split an envelope into its parts.

    Raises:
        PeerError: it is truncated, of another version, or not in canonical form.
    """
    view = memoryview(data).toreadonly()
    if not view or view[0] != _SCHEMA_TAG:
        raise PeerError(f"envelope of {len(view)} bytes does not begin with its schema version")
    schema, position = _read_varint(view, 1)
    check_schema("envelope", schema)
    parts: list[memoryview] = []
    for tag in _PART_TAGS:
        part = view[position:position]
        if position < len(view) and view[position] == tag:
            length, start = _read_varint(view, position + 1)
            position = start + length
            if not 0 < length <= len(view) - start:
                raise PeerError(f"part {tag >> 3} of the envelope claims {length} bytes, got {len(view) - start}")
            part = view[start:position]
        parts.append(part)
    if position != len(view):
        raise PeerError(f"envelope has {len(view) - position} bytes that belong to no part, expected none")
    return Frame(*parts)


def varint(value: int) -> bytes:
    """A non-negative integer in protobuf's encoding, seven bits per byte, lowest first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(view: memoryview, position: int) -> tuple[int, int]:
    """Value and end of the varint at `position`; five bytes hold every length below 2 GiB."""
    value = 0
    for shift, byte in enumerate(view[position : position + 5]):
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            if shift and not byte:
                break
            return value, position + shift + 1
    raise PeerError(f"number at byte {position} of the envelope cannot be read, expected a varint of at most 5 bytes")

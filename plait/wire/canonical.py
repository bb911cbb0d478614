"""Read and write protobuf messages in their one canonical form, so that equal messages are equal bytes.

Canonical: fields in the order of their numbers, map entries in the order of their keys, defaults left out, varints as
short as possible, and nothing that this version does not know. Knows no particular message.
"""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from plait.errors import PeerError

SCHEMA = 1

_Message = TypeVar("_Message", bound=Message)


def to_bytes(message: Message) -> bytes:
    """The canonical bytes of a message."""
    return message.SerializeToString(deterministic=True)


def parse(kind: type[_Message], data: bytes, what: str, *, max_bytes: int) -> _Message:
    """Parse bytes that may yet be of another version, or not canonical.

    Raises:
        PeerError: there are more than `max_bytes`, or they are no such message.
    """
    if len(data) > max_bytes:
        raise PeerError(f"{what} has {len(data)} bytes, expected at most {max_bytes}")
    try:
        return kind.FromString(data)
    except DecodeError:
        expected = f"protobuf's {kind.DESCRIPTOR.full_name}"
        raise PeerError(f"{what} of {len(data)} bytes cannot be read, expected {expected}") from None


def check_schema(what: str, schema: int) -> None:
    """Raise PeerError unless the message is of the version that this code reads."""
    if schema != SCHEMA:
        raise PeerError(f"schema version of the {what} is {schema}, expected {SCHEMA}")


def check_canonical(message: Message, data: bytes, what: str) -> None:
    """Raise PeerError unless `data`, from which `message` was parsed, is its canonical form."""
    message.DiscardUnknownFields()
    if to_bytes(message) != data:
        raise PeerError(f"{what} has unknown, repeated or disordered fields, expected the canonical form")

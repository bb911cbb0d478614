"""Protobuf messages in their one canonical form, so that equal messages are equal bytes.

Canonical: fields in number order, entries of a table in key order, no defaults, shortest varints, no unknown fields.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar, cast

from google.protobuf.message import DecodeError, Message

from plait.errors import PeerError

SCHEMA = 1
"""Version of the formats of Envelope and Reply."""

_COMPARED_BYTES = 1 << 16

_Message = TypeVar("_Message", bound=Message)
_Entry = TypeVar("_Entry", bound=Message)


def to_bytes(message: Message) -> bytes:
    """The canonical bytes of a message."""
    return message.SerializeToString(deterministic=True)


def parse(kind: type[_Message], data: bytes | memoryview, what: str, *, max_bytes: int) -> _Message:
    """Parse bytes that may be of another version, or not canonical."""
    if len(data) > max_bytes:
        raise PeerError(f"{what} has {len(data)} bytes, expected at most {max_bytes}")
    try:
        return kind.FromString(cast("bytes", data))  # its stub does not know views
    except DecodeError:
        expected = f"protobuf's {kind.DESCRIPTOR.full_name}"
        raise PeerError(f"{what} of {len(data)} bytes is not {expected}") from None


def entries(kind: type[_Entry], table: Mapping[Any, Any]) -> list[_Entry]:
    """A table as entries, a message of `key` and `value` each: text in its UTF-8 order, numbers ascending."""
    # Code points have the order of their UTF-8 bytes.
    return [kind(key=key, value=table[key]) for key in sorted(table)]


def table_of(found: Sequence[Message], what: str) -> dict[Any, Any]:
    """The inverse of `entries`."""
    table: dict[Any, Any] = {}
    before: Any = None
    for entry in found:
        if not (entry.HasField("key") and entry.HasField("value")):
            raise PeerError(f"{what} has an entry without key or value; both must be present, even if 0 or empty")
        key = getattr(entry, "key")  # noqa: B009
        if before is not None and key <= before:
            raise PeerError(f"{what} has {key!a} after {before!a}: keys must ascend")
        table[key] = getattr(entry, "value")  # noqa: B009
        before = key
    return table


def values_of(message: Message, kind: type[Any]) -> dict[str, Any]:
    """A message's fields under the names that the dataclass `kind` has too; None for an optional one that is absent."""
    described = message.DESCRIPTOR.fields_by_name
    absent = {name for name, field in described.items() if field.has_presence and not message.HasField(name)}
    return {each.name: None if each.name in absent else getattr(message, each.name) for each in fields(kind)}


def check_schema(what: str, schema: int, expected: int = SCHEMA) -> None:
    """Raise PeerError unless the message is of the version that this code reads."""
    if schema != expected:
        raise PeerError(f"schema version of the {what} is {schema}, expected {expected}: upgrade the older end")


def check_canonical(message: Message, data: bytes | memoryview, what: str) -> None:
    """Raise PeerError unless `data`, from which `message` was parsed, is its canonical form."""
    message.DiscardUnknownFields()
    if not are_equal(to_bytes(message), data):
        raise PeerError(f"{what} is not canonical: unknown, repeated or disordered fields")


def are_equal(expected: bytes, data: bytes | memoryview) -> bool:
    """Whether these are the same bytes; only a small part of a view is copied at a time.

    Python compares views byte by byte, twenty times slower than bytes.
    """
    if isinstance(data, bytes):
        return expected == data
    view = memoryview(expected)
    starts = range(0, len(view), _COMPARED_BYTES)
    return len(view) == len(data) and all(
        bytes(view[start : start + _COMPARED_BYTES]) == bytes(data[start : start + _COMPARED_BYTES]) for start in starts
    )

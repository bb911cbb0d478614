"""Bounds of the fields on the wire: each function returns its argument, or raises PeerError naming the field."""

import math
import zlib
from collections.abc import Mapping
from enum import IntEnum
from typing import TypeVar

from plait.errors import PeerError

DIGEST_BYTES = 32
RUN_ID_BYTES = 16
SIGNATURE_BYTES = 64
MAX_NAME = 128
MAX_OBJECTIVE = 512  # with the options of all its parts
MAX_DETAIL = 1024
MAX_SPEC_BYTES = 1 << 20
MAX_SETTINGS_BYTES = 1 << 14
MAX_METRICS = 64
MAX_HISTOGRAM = 64
MAX_HISTOGRAM_BYTES = 8192
MAX_COUNT = 2**63 - 1
MAX_STEPS = 2**32 - 1
MAX_EXAMPLES = 1 << 20  # of one optimizer step
MAX_SEQ_LEN = 1 << 24

_Enum = TypeVar("_Enum", bound=IntEnum)


def exact_length(what: str, value: bytes, expected: int, *, or_empty: bool = False) -> bytes:
    """Bytes of one length, or (if the field may be left out) none."""
    if len(value) != expected and not (or_empty and not value):
        raise PeerError(f"{what} has {len(value)} bytes, expected {expected}{' or none' if or_empty else ''}")
    return value


def name(what: str, value: str, *, or_empty: bool = False) -> str:
    """A name of 1 to 128 printable characters."""
    if not value and or_empty:
        return value
    return printable(what, value, minimum=1, maximum=MAX_NAME)


def printable(what: str, value: str, *, minimum: int = 0, maximum: int) -> str:
    """Text without control characters, separators other than a space, or unassigned code points."""
    if not minimum <= len(value) <= maximum:
        raise PeerError(f"{what} has {len(value)} characters, expected {minimum} to {maximum}")
    if not value.isprintable():
        raise PeerError(f"{what} is {value!a}, expected printable characters")
    return value


def spec_text(value: str) -> str:
    """A specification of at most 1 MiB in UTF-8; its content is checked when an adapter is derived from it."""
    try:
        size_bytes = len(value.encode())
    except UnicodeEncodeError:
        raise PeerError("adapter specification holds lone surrogates") from None
    if size_bytes > MAX_SPEC_BYTES:
        raise PeerError(f"adapter specification has {size_bytes} bytes, expected at most {MAX_SPEC_BYTES}")
    return value


def inflated(what: str, packed: bytes, max_bytes: int) -> bytes:
    """The content of one zlib stream (RFC 1950), and no more of it than is permitted."""
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(packed, max_bytes + 1)
    except zlib.error:
        raise PeerError(f"{what} of {len(packed)} bytes is not a zlib stream") from None
    if len(content) > max_bytes or not unpacker.eof or unpacker.unused_data:
        raise PeerError(f"{what} is not one zlib stream of at most {max_bytes} bytes")
    return content


def integer(what: str, value: int, *, minimum: int = 0, maximum: int = MAX_COUNT) -> int:
    """A whole number within bounds."""
    if not minimum <= value <= maximum:
        raise PeerError(f"{what} is {value}, expected {minimum} to {maximum}")
    return value


def finite(what: str, value: float) -> float:
    """A number that is neither NaN nor infinite."""
    if not math.isfinite(value):
        raise PeerError(f"{what} is {value}, expected a finite number")
    return value


def positive(what: str, value: float) -> float:
    """A finite number above 0."""
    if not finite(what, value) > 0:
        raise PeerError(f"{what} is {value}, expected more than 0")
    return value


def non_negative(what: str, value: float) -> float:
    """A finite number, 0 or more."""
    if finite(what, value) < 0:
        raise PeerError(f"{what} is {value}, expected 0 or more")
    return value


def entries(what: str, value: Mapping[str, object], maximum: int) -> None:
    """A map of at most `maximum` entries under printable names."""
    if len(value) > maximum:
        raise PeerError(f"{what} has {len(value)} entries, expected at most {maximum}")
    for key in value:
        name(f"name in {what}", key)


def member(what: str, value: int, kind: type[_Enum]) -> _Enum:
    """A value that its enumeration knows."""
    try:
        return kind(value)
    except ValueError:
        raise PeerError(
            f"{what} is {value}, expected one of {', '.join(f'{m.value} ({m.name})' for m in kind)}"
        ) from None

"""A layout as it travels: its JSON text, deflated, so that a client need not derive it from base and specification."""

from __future__ import annotations

import zlib
from functools import lru_cache

from plait.adapters import Layout
from plait.errors import ConfigError, PeerError

MAX_TEXT_BYTES = 1 << 24
"""Of a layout's text; those of the largest adapters have a twentieth of it."""


@lru_cache(maxsize=8)
def packed_layout(layout: Layout) -> bytes:
    """The text of a layout as a zlib stream (RFC 1950)."""
    return zlib.compress(layout.text.encode(), 9)


def unpacked_layout(packed: bytes) -> Layout:
    """The inverse of `packed_layout`.

    Raises:
        PeerError: it is no zlib stream of a layout, or too large.
    """
    unpacking = zlib.decompressobj()
    try:
        text = unpacking.decompress(packed, MAX_TEXT_BYTES)
    except zlib.error:
        raise PeerError(f"layout of {len(packed)} bytes cannot be unpacked, expected a zlib stream") from None
    if not unpacking.eof or unpacking.unused_data:
        raise PeerError(f"layout has no end within {MAX_TEXT_BYTES} bytes, expected one zlib stream")
    return Layout.of_text(text.decode("ascii", "replace"))


def check_layout(packed: bytes, own: Layout) -> None:
    """Check that a layout that was received is the one derived here.

    Args:
        packed: from the server; empty where it sent none.

    Raises:
        PeerError: it is no layout.
        ConfigError: it is another.
    """
    if packed and (told := unpacked_layout(packed)) != own:
        raise ConfigError(
            f"layout of the adapter has {len(told.slots)} tensors of {told.size} numbers, expected the "
            f"{len(own.slots)} of {own.size} that this client derives from the same specification"
        )

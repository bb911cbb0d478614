"""Sign an envelope with a client's key, and read the signature.

The signature covers the header, which names run, round, client, base, the adapter that the delta is relative to and the
digest of the payload. Knows nothing of keys: signing is a function argument.
"""

from __future__ import annotations

from collections.abc import Callable

from plait.errors import PeerError
from plait.wire.envelope import MAX_HEADER_BYTES, SIGNED_DOMAIN, Header, read_header
from plait.wire.frame import join_frame, split_frame


def read_signed(signed: bytes) -> Header:
    """The header in the bytes that a signature covers.

    Raises:
        PeerError: they are not such bytes.
    """
    if not signed.startswith(SIGNED_DOMAIN):
        raise PeerError(f"{len(signed)} signed bytes do not begin with {SIGNED_DOMAIN!r}")
    header = signed[len(SIGNED_DOMAIN) :]
    return read_header(join_frame(header, b"", b""), max_bytes=MAX_HEADER_BYTES)


def with_signature(data: bytes, sign: Callable[[bytes], bytes]) -> bytes:
    """The same envelope, signed.

    Args:
        sign: makes 64 bytes from the bytes to sign.
    """
    frame = split_frame(data)
    header = bytes(frame.header)
    return join_frame(header, frame.payload, sign(SIGNED_DOMAIN + header))

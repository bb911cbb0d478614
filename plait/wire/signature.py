"""Sign an envelope with a client's key, and read the signature.

The signature covers the header, which names run, round, client, base, the adapter that the delta is relative to and the
digest of the payload. Knows nothing of keys: signing is a function argument.
"""

from __future__ import annotations

from collections.abc import Callable

from plait.errors import PeerError
from plait.wire import bounds
from plait.wire.envelope import MAX_HEADER_BYTES, Header, read_header
from plait.wire.frame import join_frame, split_frame

_DOMAIN = b"plait.v1.envelope\0"


def signed_bytes(data: bytes) -> bytes:
    """The bytes that a signature over this envelope covers; the header's digest includes the payload.

    Raises:
        PeerError: it is not an envelope.
    """
    return _DOMAIN + bytes(split_frame(data).header)


def read_signed(signed: bytes) -> Header:
    """The header in the bytes that a signature covers.

    Raises:
        PeerError: they are not such bytes.
    """
    if not signed.startswith(_DOMAIN):
        raise PeerError(f"{len(signed)} signed bytes do not begin with {_DOMAIN!r}")
    header = signed[len(_DOMAIN) :]
    return read_header(join_frame(header, b"", b""), max_bytes=MAX_HEADER_BYTES)


def with_signature(data: bytes, sign: Callable[[bytes], bytes]) -> bytes:
    """The same envelope, signed.

    Args:
        data: an envelope.
        sign: makes 64 bytes from the bytes to sign.
    """
    frame = split_frame(data)
    return join_frame(bytes(frame.header), frame.payload, sign(signed_bytes(data)))


def signature_of(data: bytes) -> bytes:
    """The signature on an envelope, 64 bytes; empty if there is none.

    Raises:
        PeerError: it is not an envelope.
    """
    signature = bytes(split_frame(data).signature)
    if signature:
        bounds.exact_length("signature", signature, bounds.SIGNATURE_BYTES)
    return signature

"""Put a client's signature on an envelope, and read it.

What is signed is the header, which names run, round, client, base, the adapter that the delta is relative to and the
digest of the payload. Knows nothing of keys: signing is a function that is handed in.
"""

from __future__ import annotations

from collections.abc import Callable

from plait.errors import PeerError
from plait.wire import bounds
from plait.wire.envelope import MAX_HEADER_BYTES, Header, read_header
from plait.wire.frame import join_frame, split_frame

_DOMAIN = b"plait.v1.envelope\0"


def signed_bytes(data: bytes) -> bytes:
    """What a signature over this envelope covers; by its digest the header vouches for the payload.

    Raises:
        PeerError: it is no envelope.
    """
    return _DOMAIN + bytes(split_frame(data).header)


def read_signed(signed: bytes) -> Header:
    """What an envelope said of itself, from the bytes that its signature covers.

    Raises:
        PeerError: they are no such bytes.
    """
    if not signed.startswith(_DOMAIN):
        raise PeerError(f"{len(signed)} signed bytes do not begin with {_DOMAIN!r}")
    header = signed[len(_DOMAIN) :]
    return read_header(join_frame(header, b"", b""), max_bytes=MAX_HEADER_BYTES)


def with_signature(data: bytes, sign: Callable[[bytes], bytes]) -> bytes:
    """The same envelope, signed.

    Args:
        data: an envelope.
        sign: makes 64 bytes of the bytes that are to be signed.
    """
    frame = split_frame(data)
    return join_frame(bytes(frame.header), frame.payload, sign(signed_bytes(data)))


def signature_of(data: bytes) -> bytes:
    """The signature on an envelope, 64 bytes; empty where there is none.

    Raises:
        PeerError: it is no envelope.
    """
    signature = bytes(split_frame(data).signature)
    if signature:
        bounds.exact_length("signature", signature, bounds.SIGNATURE_BYTES)
    return signature

"""Updates taken apart and reassembled, as an insider can: with its own key and a matching digest.

Knows nothing of what is refused.
"""

from __future__ import annotations

from collections.abc import Callable

from plait.v1 import envelope_pb2 as pb
from plait.v1 import messages_pb2 as mpb
from plait.wire.envelope import join_frame, payload_digest, split_frame, with_signature

Sign = Callable[[bytes], bytes]


def update_in(reply: bytes) -> bytes:
    return mpb.Reply.FromString(reply).update


def reply_with(update: bytes) -> bytes:
    return mpb.Reply(schema=1, update=update).SerializeToString(deterministic=True)


def header_of(update: bytes) -> pb.Header:
    """The header of an envelope, to be changed."""
    return pb.Header.FromString(bytes(split_frame(update).header))


def payload_of(update: bytes) -> bytes:
    """Its payload."""
    return bytes(split_frame(update).payload)


def sealed(header: pb.Header, payload: bytes, sign: Sign | None, *, digest: bool = True, tail: bytes = b"") -> bytes:
    """A reply with this header and payload, signed.

    Args:
        header: of the envelope.
        payload: of the envelope.
        sign: makes the signature; None for none.
        digest: whether the header's digest of the payload is to fit.
        tail: bytes after the header's last field.
    """
    if digest:
        header.payload_digest = payload_digest(header.codec & 0x7FFFFFFF, header.codec_parameters, payload)
    update = join_frame(header.SerializeToString(deterministic=True) + tail, payload)
    return reply_with(with_signature(update, sign) if sign else update)


def changed(reply: bytes, sign: Sign, payload: bytes | None = None, **fields: object) -> bytes:
    """A reply with an update whose header says something else, and whose payload may be another."""
    header = header_of(update_in(reply))
    for name, value in fields.items():
        setattr(header, name, value)
    kept = payload_of(update_in(reply)) if payload is None else payload
    return sealed(header, kept, sign, digest="payload_digest" not in fields)

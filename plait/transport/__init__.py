"""Code shared by both ends of a gRPC federation: constants, chunk streams, channel credentials and options."""

from plait.transport.credentials import (
    CHANNEL_OPTIONS,
    SERVER_OPTIONS,
    channel_credentials,
    server_credentials,
)
from plait.transport.protocol import (
    CHUNK_BYTES,
    DIGEST_BYTES,
    HEAD_BYTES,
    MAX_MESSAGE_BYTES,
    NONCE_BYTES,
    PROTOCOL_VERSION,
    SESSION_BYTES,
    chunks_of,
    enrolment_bytes,
    node_number,
)
from plait.transport.status import fetch_status

__all__ = [
    "CHANNEL_OPTIONS",
    "CHUNK_BYTES",
    "DIGEST_BYTES",
    "HEAD_BYTES",
    "MAX_MESSAGE_BYTES",
    "NONCE_BYTES",
    "PROTOCOL_VERSION",
    "SERVER_OPTIONS",
    "SESSION_BYTES",
    "channel_credentials",
    "chunks_of",
    "enrolment_bytes",
    "fetch_status",
    "node_number",
    "server_credentials",
]

"""The numbers and byte strings on which both ends of the federation protocol must agree (see federation.proto).

Knows nothing of connections.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

PROTOCOL_VERSION = 1
"""The version that both ends speak; a server refuses nodes with any other."""

CHUNK_BYTES = 1 << 20
"""Bytes of a body or an answer per message, and the most that are allowed.

A message costs the server's event loop about 0.2 ms, whatever its size; both ends hold up to three for each transfer
in progress.
"""

HEAD_BYTES = 65536
"""Largest `Work.head`, and largest message that the server accepts before a node has proved its key."""

MAX_MESSAGE_BYTES = CHUNK_BYTES + HEAD_BYTES
"""The largest message on the wire, in either direction."""

MESSAGE_TYPES: Mapping[str, str] = {
    "describe": "query",
    "train": "train",
    "evaluate": "evaluate",
    # Of its own, so that a question about data and one of a masked sum do not displace each other.
    "mask": "query.mask",
}
"""What messages call the purposes of tasks (`plait.rounds.channel.Purpose`)."""

NONCE_BYTES = 32
SESSION_BYTES = 32
DIGEST_BYTES = 32

_ENROLMENT = b"plait.v1.enrol\0"


def enrolment_bytes(*, challenge_nonce: bytes, hello_nonce: bytes, public_key: bytes, name: str) -> bytes:
    """The bytes that a node signs to prove its key.

    Args:
        challenge_nonce: the server's, 32 bytes.
        hello_nonce: the node's own, 32 bytes.
        public_key: the node's key, 32 bytes.
        name: the node's name, which comes last because it alone has no fixed length.
    """
    return b"".join((_ENROLMENT, challenge_nonce, hello_nonce, public_key, name.encode()))


def node_number(name: str) -> int:
    """The number of a node: the same after every reconnect, positive and below 2^63."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1

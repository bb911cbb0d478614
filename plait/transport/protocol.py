"""The numbers and byte strings that both ends of the federation protocol must agree on (see federation.proto).

Knows nothing of connections.
"""

from __future__ import annotations

import hashlib

PROTOCOL_VERSION = 1
"""What `Hello.protocol` must be."""

CHUNK_BYTES = 1 << 20
"""How much of a body or an answer travels in one message, and the most that may.

A message costs the server's event loop about 0.2 ms, whatever its size; both ends hold up to three for each transfer in
progress.
"""

HEAD_BYTES = 65536
"""The most that `Work.head` holds; also the largest message that the server takes before a node proved its key."""

MAX_MESSAGE_BYTES = CHUNK_BYTES + HEAD_BYTES
"""The largest message on the wire, either way."""

NONCE_BYTES = 32
SESSION_BYTES = 32
DIGEST_BYTES = 32

_ENROLMENT = b"plait.v1.enrol\0"


def enrolment_bytes(*, challenge_nonce: bytes, hello_nonce: bytes, public_key: bytes, name: str) -> bytes:
    """What a node signs to prove its key.

    Args:
        challenge_nonce: the server's, 32 bytes.
        hello_nonce: the node's own, 32 bytes.
        public_key: the node's key, 32 bytes.
        name: the node's name, which comes last because it alone has no fixed length.
    """
    return b"".join((_ENROLMENT, challenge_nonce, hello_nonce, public_key, name.encode()))


def node_number(name: str) -> int:
    """Flower's number of a node: the same whenever it comes back, positive and below 2^63."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1

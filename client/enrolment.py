"""A node's identity and its proof (see federation.proto)."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from plait import __version__
from plait.errors import PeerError
from plait.transport.protocol import NONCE_BYTES, PROTOCOL_VERSION, enrolment_bytes
from plait.trust.keys import NodeKey
from plait.v1 import federation_pb2 as pb


@dataclass(frozen=True)
class Credential:
    """A node's identity.

    Attributes:
        key: proves it; None on an insecure loopback connection.
    """

    name: str
    key: NodeKey | None


class Enrolment:
    """One attempt to enrol, with its own nonce."""

    def __init__(self, credential: Credential) -> None:
        self._credential = credential
        self._nonce = secrets.token_bytes(NONCE_BYTES)

    def hello(self) -> pb.FromNode:
        """The node's first message."""
        key = self._credential.key
        return pb.FromNode(
            hello=pb.Hello(
                protocol=PROTOCOL_VERSION,
                name=self._credential.name,
                public_key=key.public_bytes if key else b"",
                nonce=self._nonce,
                version=__version__,
            )
        )

    def proof(self, challenge: pb.Challenge) -> pb.FromNode:
        """The answer to the server's challenge.

        Raises:
            PeerError: it is not a challenge.
        """
        if len(challenge.nonce) != NONCE_BYTES:
            raise PeerError(f"nonce of the server's challenge has {len(challenge.nonce)} bytes, expected {NONCE_BYTES}")
        key = self._credential.key
        if key is None:
            return pb.FromNode(proof=pb.Proof())
        signed = enrolment_bytes(
            challenge_nonce=challenge.nonce,
            hello_nonce=self._nonce,
            public_key=key.public_bytes,
            name=self._credential.name,
        )
        return pb.FromNode(proof=pb.Proof(signature=key.sign(signed)))

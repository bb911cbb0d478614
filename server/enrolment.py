"""Proof of a node's identity: hello, challenge, proof. A protocol core without I/O, one object per connection.

Knows nothing of sessions and later messages.
"""

from __future__ import annotations

import secrets
from dataclasses import KW_ONLY, dataclass

from plait.errors import ConfigError, PeerError
from plait.transport.protocol import (
    NONCE_BYTES,
    PROTOCOL_VERSION,
    enrolment_bytes,
)
from plait.trust.keys import PUBLIC_KEY_BYTES, verify
from plait.trust.names import check_client_name
from plait.trust.register import Register, Verdict
from plait.v1 import federation_pb2 as pb

_REASONS = {
    Verdict.UNKNOWN_KEY: pb.REFUSED_REASON_UNKNOWN_KEY,
    Verdict.REVOKED_KEY: pb.REFUSED_REASON_REVOKED_KEY,
    Verdict.WRONG_NAME: pb.REFUSED_REASON_WRONG_NAME,
}
_DETAILS = {
    Verdict.UNKNOWN_KEY: "this server's register (clients.json) does not have this node",
    Verdict.REVOKED_KEY: "key has been revoked",
    Verdict.WRONG_NAME: "key is registered for another name",
}


class EnrolmentRefused(PeerError):  # noqa: N818 (it names what happened)
    """A node is refused."""

    def __init__(self, reason: pb.RefusedReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason

    @property
    def word(self) -> str:
        """The reason for logs and metrics."""
        return pb.RefusedReason.Name(self.reason).removeprefix("REFUSED_REASON_").lower()

    def to_message(self) -> pb.ToNode:
        """The message to the node."""
        return pb.ToNode(refused=pb.Refused(reason=self.reason, detail=str(self)))


def refusal_of(verdict: Verdict) -> EnrolmentRefused:
    """Why a node with this verdict is refused."""
    return EnrolmentRefused(_REASONS[verdict], _DETAILS[verdict])


@dataclass(eq=False)
class Enrolment:
    """One node's enrolment.

    Attributes:
        admission: who may take part; None admits any name, on an insecure connection.
        certified_name: the name in the connection's certificate; None on an insecure connection.
        hello: what the node says of itself, once it is plausible; empty before.
    """

    admission: Register | None
    _: KW_ONLY
    certified_name: str | None

    def __post_init__(self) -> None:
        self.hello = pb.Hello()
        self._nonce = secrets.token_bytes(NONCE_BYTES)

    @property
    def name(self) -> str:
        """The node's own name for itself; verified only once `check` has succeeded."""
        return self.hello.name

    def challenge(self, event: pb.FromNode) -> pb.ToNode:
        """Answer the node's first message.

        Raises:
            EnrolmentRefused: its claim cannot be true, or it speaks another protocol.
        """
        if event.WhichOneof("event") != "hello":
            raise EnrolmentRefused(pb.REFUSED_REASON_MALFORMED, "first message is not a hello, expected one")
        hello = event.hello
        if hello.protocol != PROTOCOL_VERSION:
            older = "of this client" if hello.protocol < PROTOCOL_VERSION else "of the server"
            raise EnrolmentRefused(
                pb.REFUSED_REASON_PROTOCOL,
                f"protocol version is {hello.protocol}, expected {PROTOCOL_VERSION}: upgrade the plait {older}, which "
                "is the older one",
            )
        try:
            check_client_name(hello.name)
        except ConfigError as error:
            raise EnrolmentRefused(pb.REFUSED_REASON_MALFORMED, str(error)) from error
        if len(hello.nonce) != NONCE_BYTES:
            raise EnrolmentRefused(
                pb.REFUSED_REASON_MALFORMED, f"nonce has {len(hello.nonce)} bytes, expected {NONCE_BYTES}"
            )
        anonymous = self.admission is None and not hello.public_key
        if len(hello.public_key) != PUBLIC_KEY_BYTES and not anonymous:
            raise EnrolmentRefused(
                pb.REFUSED_REASON_MALFORMED,
                f"public key has {len(hello.public_key)} bytes, expected {PUBLIC_KEY_BYTES}",
            )
        if self.admission is not None:
            verdict = self.admission.check(hello.name, hello.public_key)
            if verdict is not Verdict.KNOWN:
                raise refusal_of(verdict)
        # If keys are required, TLS has checked a certificate, and its name must match too.
        if self.certified_name != hello.name and (self.admission is not None or self.certified_name is not None):
            raise EnrolmentRefused(pb.REFUSED_REASON_WRONG_NAME, "name differs from the certificate's")
        self.hello = hello
        return pb.ToNode(challenge=pb.Challenge(nonce=self._nonce))

    def check(self, event: pb.FromNode) -> None:
        """Check the node's proof.

        Raises:
            EnrolmentRefused: the proof is not valid.
        """
        if event.WhichOneof("event") != "proof":
            raise EnrolmentRefused(pb.REFUSED_REASON_MALFORMED, "second message is not a proof, expected one")
        hello = self.hello
        if not hello.public_key:
            return
        signed = enrolment_bytes(
            challenge_nonce=self._nonce, hello_nonce=hello.nonce, public_key=hello.public_key, name=hello.name
        )
        if not verify(hello.public_key, event.proof.signature, signed):
            raise EnrolmentRefused(
                pb.REFUSED_REASON_BAD_PROOF, "signature does not fit the key, expected one over this challenge"
            )

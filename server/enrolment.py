"""How a node proves who it is: hello, challenge, proof. A protocol core without I/O, one object a connection.

Knows nothing of sessions and of what comes after.
"""

from __future__ import annotations

import secrets
from typing import Protocol

from plait.errors import ConfigError, PeerError
from plait.transport.protocol import NONCE_BYTES, PROTOCOL_VERSION, enrolment_bytes
from plait.trust.keys import PUBLIC_KEY_BYTES, verify
from plait.trust.names import check_client_name
from plait.trust.register import Verdict
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


class Admission(Protocol):
    """Says who may take part (`plait.trust.register.Register`)."""

    def check(self, name: str, public_key: bytes) -> Verdict:
        """What is known of a name and a key."""
        ...

    def standing(self, name: str) -> Verdict:
        """What is known of a name, whatever the key."""
        ...


class EnrolmentRefused(PeerError):  # noqa: N818 (it names what happened)
    """A node is turned away.

    Attributes:
        reason: for the protocol.
    """

    def __init__(self, reason: pb.RefusedReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason

    @property
    def word(self) -> str:
        """The reason for logs and metrics."""
        return pb.RefusedReason.Name(self.reason).removeprefix("REFUSED_REASON_").lower()

    def to_message(self) -> pb.ToNode:
        """What the node is told."""
        return pb.ToNode(refused=pb.Refused(reason=self.reason, detail=str(self)))


def refusal_of(verdict: Verdict) -> EnrolmentRefused:
    """Why a node with this verdict is turned away."""
    return EnrolmentRefused(_REASONS[verdict], _DETAILS[verdict])


class Enrolment:
    """One node's way in.

    Args:
        admission: who may take part; None lets any name in, on an insecure connection.
        certified_name: the name in the certificate that the connection showed; None on an insecure connection.
    """

    def __init__(self, admission: Admission | None, *, certified_name: str | None) -> None:
        self._admission = admission
        self._certified_name = certified_name
        self._hello = pb.Hello()
        self._nonce = secrets.token_bytes(NONCE_BYTES)

    @property
    def certified_name(self) -> str | None:
        """The name in the certificate; None on an insecure connection."""
        return self._certified_name

    @property
    def name(self) -> str:
        """What the node calls itself; only true once `check` went well."""
        return self._hello.name

    @property
    def public_key(self) -> bytes:
        """The key that the node showed; empty for none."""
        return self._hello.public_key

    def challenge(self, event: pb.FromNode) -> pb.ToNode:
        """Answer the node's first word.

        Raises:
            EnrolmentRefused: it cannot be who it says it is, or speaks another protocol.
        """
        if event.WhichOneof("event") != "hello":
            raise EnrolmentRefused(pb.REFUSED_REASON_MALFORMED, "first message is no hello, expected one")
        hello = event.hello
        if hello.protocol != PROTOCOL_VERSION:
            raise EnrolmentRefused(
                pb.REFUSED_REASON_PROTOCOL,
                f"protocol version is {hello.protocol}, expected {PROTOCOL_VERSION}",
            )
        try:
            check_client_name(hello.name)
        except ConfigError as error:
            raise EnrolmentRefused(pb.REFUSED_REASON_MALFORMED, str(error)) from error
        if len(hello.nonce) != NONCE_BYTES:
            raise EnrolmentRefused(
                pb.REFUSED_REASON_MALFORMED, f"nonce has {len(hello.nonce)} bytes, expected {NONCE_BYTES}"
            )
        anonymous = self._admission is None and not hello.public_key
        if len(hello.public_key) != PUBLIC_KEY_BYTES and not anonymous:
            raise EnrolmentRefused(
                pb.REFUSED_REASON_MALFORMED,
                f"public key has {len(hello.public_key)} bytes, expected {PUBLIC_KEY_BYTES}",
            )
        if self._admission is not None:
            verdict = self._admission.check(hello.name, hello.public_key)
            if verdict is not Verdict.KNOWN:
                raise refusal_of(verdict)
        # Where keys count, TLS has checked a certificate, and what that says counts too.
        if self._certified_name != hello.name and (self._admission is not None or self._certified_name is not None):
            raise EnrolmentRefused(pb.REFUSED_REASON_WRONG_NAME, "name is not the certificate's")
        self._hello = hello
        return pb.ToNode(challenge=pb.Challenge(nonce=self._nonce))

    def check(self, event: pb.FromNode) -> None:
        """Check the node's proof.

        Raises:
            EnrolmentRefused: it proves nothing.
        """
        if event.WhichOneof("event") != "proof":
            raise EnrolmentRefused(pb.REFUSED_REASON_MALFORMED, "second message is no proof, expected one")
        hello = self._hello
        if not hello.public_key:
            return
        signed = enrolment_bytes(
            challenge_nonce=self._nonce, hello_nonce=hello.nonce, public_key=hello.public_key, name=hello.name
        )
        if not verify(hello.public_key, event.proof.signature, signed):
            raise EnrolmentRefused(
                pb.REFUSED_REASON_BAD_PROOF, "signature does not fit the key, expected one over this challenge"
            )

"""What a client signs with, and how it knows others: by the authority of its federation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias


class KeyClaim(Protocol):
    """A node key that is said to be a client's, with what proves it."""

    @property
    def client(self) -> str:
        """The client's name."""
        ...

    @property
    def identity(self) -> bytes:
        """The key, Ed25519, 32 bytes."""
        ...

    @property
    def certificate(self) -> bytes:
        """The client's, in DER; empty in a simulation."""
        ...

    @property
    def endorsement(self) -> bytes:
        """See `plait.trust.endorsement.Endorsement`; empty in a simulation."""
        ...


Vouch: TypeAlias = Callable[[KeyClaim], bool]
"""Whether the federation's authority says that a node key is the client's that it names."""


def is_vouched_for(authority: bytes, claim: KeyClaim) -> bool:
    """A `Vouch` over the certificate of a federation's authority, in PEM."""
    from plait.trust.endorsement import Endorsement, is_endorsed

    return is_endorsed(authority, claim.client, claim.identity, Endorsement(claim.certificate, claim.endorsement))


@dataclass(frozen=True)
class NodeIdentity:
    """The identity of one client.

    Attributes:
        public_key: Ed25519, 32 bytes.
        vouch: whether a node key is another's.
        certificate: proves to others that `public_key` is this client's.
    """

    public_key: bytes
    sign: Callable[[bytes], bytes]
    vouch: Vouch
    certificate: bytes = b""
    endorsement: bytes = b""

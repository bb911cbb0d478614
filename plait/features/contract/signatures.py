"""Members' signatures under a contract: each by a node key, which a certificate of the federation's authority endorses.

So anyone with the authority's certificate can count them without trusting a server.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from plait.errors import ConfigError, PeerError
from plait.features.contract.terms import Contract
from plait.trust.endorsement import Endorsement, is_endorsed
from plait.trust.keys import verify
from plait.trust.kit import ClientKit
from plait.trust.secret_file import read_small

_TEXT = b"plait contract 1\0"
SUFFIX = ".signature.json"


@dataclass(frozen=True)
class Signature:
    """One member's.

    Attributes:
        public_key: its node key, 32 bytes.
        signature: 64 bytes.
    """

    member: str
    contract: str
    public_key: bytes
    endorsement: Endorsement
    signature: bytes

    @classmethod
    def of(cls, contract: Contract, kit: ClientKit) -> Signature:
        """A member's, made now.

        Raises:
            ConfigError: it is no member.
        """
        if kit.name not in contract.members:
            raise ConfigError(
                f"'{kit.name}' is no member of the contract, expected one of {', '.join(contract.members)}"
            )
        signed = kit.node_key.sign(_TEXT + contract.digest.encode())
        return cls(kit.name, contract.digest, kit.node_key.public_bytes, Endorsement.of(kit), signed)

    def to_bytes(self) -> bytes:
        """As a file."""
        said = {
            "member": self.member,
            "contract": self.contract,
            "public_key": self.public_key.hex(),
            "certificate": base64.b64encode(self.endorsement.certificate).decode(),
            "endorsement": self.endorsement.signature.hex(),
            "signature": self.signature.hex(),
        }
        return json.dumps(said, indent=1).encode() + b"\n"

    @classmethod
    def load(cls, path: Path) -> Signature:
        """From a file.

        Raises:
            PeerError: it is none.
        """
        try:
            said = cast("Mapping[str, Any]", json.loads(read_small(path)))
            certificate = base64.b64decode(said["certificate"], validate=True)
            endorsement = Endorsement(certificate, bytes.fromhex(said["endorsement"]))
            key, signature = bytes.fromhex(said["public_key"]), bytes.fromhex(said["signature"])
            return cls(str(said["member"]), str(said["contract"]), key, endorsement, signature)
        except (ValueError, KeyError, TypeError) as error:
            raise PeerError(
                f"'{path}' is no signature under a contract, expected what `plait contract sign` wrote"
            ) from error

    def holds(self, contract: Contract, authority: bytes) -> bool:
        """Whether it is a member's, under this contract.

        Args:
            authority: certificate of the federation's authority, in PEM.
        """
        return (
            self.member in contract.members
            and self.contract == contract.digest
            and is_endorsed(authority, self.member, self.public_key, self.endorsement)
            and verify(self.public_key, self.signature, _TEXT + contract.digest.encode())
        )


def signed_by(
    contract: Contract, signatures: Iterable[Signature], authority: bytes, revoked: Iterable[str] = ()
) -> tuple[str, ...]:
    """The members whose signatures count.

    Args:
        authority: certificate of the federation's authority, in PEM.
        revoked: node keys in hexadecimal whose signatures have no weight any more.
    """
    gone = set(revoked)
    return tuple(
        sorted(
            {
                each.member
                for each in signatures
                if each.holds(contract, authority) and each.public_key.hex() not in gone
            }
        )
    )

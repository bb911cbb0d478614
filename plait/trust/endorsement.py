"""What proves to other clients that a node key is a client's: its certificate, and that certificate's key.

A kit has two keys: one for TLS (ECDSA, since gRPC takes no Ed25519 certificates), which the federation's authority has
certified, and the node key, which signs. The first endorses the second, so a kit needs nothing more than it has, and
who knows the authority's certificate can check both. Knows no register: the server says which clients it has revoked.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Self

from cryptography import x509
from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from plait.errors import ConfigError
from plait.trust.certificate import Role, check_issued_by, common_name, read_certificate, read_key, role_of
from plait.trust.kit import ClientKit
from plait.trust.names import check_client_name

_TEXT = b"plait node key 1"


@dataclass(frozen=True)
class Endorsement:
    """Proof that a node key is a client's.

    Attributes:
        signature: ECDSA with SHA-256 by the certificate's key, over the client's name and its node key.
    """

    certificate: bytes
    signature: bytes

    @classmethod
    def of(cls, kit: ClientKit) -> Self:
        """A kit's own, as of now.

        Raises:
            ConfigError: a file of the kit is damaged.
            MachineError: cannot be read.
        """
        certificate = read_certificate(kit.directory / "client.crt")
        key = read_key(kit.directory / "client.key")
        signature = key.sign(_signed(kit.name, kit.node_key.public_bytes), ec.ECDSA(hashes.SHA256()))
        return cls(certificate.public_bytes(serialization.Encoding.DER), signature)


def is_endorsed(
    authority: bytes, name: str, node_key: bytes, endorsement: Endorsement, *, now: datetime | None = None
) -> bool:
    """Whether a federation's authority stands behind a client's node key; False for any other bytes.

    Args:
        authority: its certificate, in PEM.
        node_key: 32 bytes.
        now: the time to check dates against; by default the clock's.
    """
    window = _window(authority, name, node_key, endorsement)
    return window is not None and window[0] <= (now or datetime.now(UTC)) <= window[1]


@lru_cache(maxsize=1 << 12)
def _window(authority: bytes, name: str, node_key: bytes, given: Endorsement) -> tuple[datetime, datetime] | None:
    """When the endorsement holds; None for never."""
    try:
        check_client_name(name)
        certificate = x509.load_der_x509_certificate(given.certificate)
        check_issued_by(certificate, x509.load_pem_x509_certificate(authority), what="certificate")
        if not _is_clients(certificate) or common_name(certificate) != name:
            return None
        key = certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            return None
        key.verify(given.signature, _signed(name, node_key), ec.ECDSA(hashes.SHA256()))
    except (ConfigError, ValueError, InvalidSignature, UnsupportedAlgorithm, InternalError, x509.ExtensionNotFound):
        return None
    return certificate.not_valid_before_utc, certificate.not_valid_after_utc


def _is_clients(certificate: x509.Certificate) -> bool:
    """Whether it is a client's: not a server's, an operator's or the authority's."""
    purposes = set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    signs = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    return role_of(certificate) is Role.CLIENT and purposes == {ExtendedKeyUsageOID.CLIENT_AUTH} and not signs


def _signed(name: str, node_key: bytes) -> bytes:
    return b"".join(len(part).to_bytes(8, "big") + part for part in (_TEXT, name.encode(), node_key))

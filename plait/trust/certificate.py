"""X.509 certificates and their ECDSA P-256 keys: reading them and checking their validity.

gRPC's TLS does not accept Ed25519 certificates, so these are ECDSA. Knows nothing of who issues them, nor of kits.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import NameOID

from plait.errors import ConfigError
from plait.trust.secret_file import read_secret, read_small


class Role(StrEnum):
    """What the holder of a certificate may do; the server has no role.

    The certificate (its subject's organizational unit; a client's has none) and the register both state it.
    """

    CLIENT = "client"
    OPERATOR = "operator"

    @property
    def folder(self) -> str:
        """The folder of such kits in ``plait provision``'s directory."""
        return f"{self}s"

    @property
    def of(self) -> str:
        """The role in a sentence, with its article."""
        return f"a {self}" if self is Role.CLIENT else f"an {self}"


def new_key() -> ec.EllipticCurvePrivateKey:
    """A new P-256 key from the operating system's random generator."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The key in PEM (PKCS #8, without password)."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """The certificate in PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read a key in the format of `key_pem`.

    Raises:
        ConfigError: missing, readable by others, or not an ECDSA private key.
        MachineError: cannot be read.
    """
    try:
        key = serialization.load_pem_private_key(read_secret(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError) as error:
        raise ConfigError(f"'{path}' is not a private key in PEM without password, expected an ECDSA one") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"'{path}' is a key of another kind, expected an ECDSA key")
    return key


def read_certificate(path: Path) -> x509.Certificate:
    """Read a certificate in PEM.

    Raises:
        ConfigError: missing, or not a certificate.
        MachineError: cannot be read.
    """
    try:
        return x509.load_pem_x509_certificate(read_small(path))
    except (ValueError, InternalError) as error:
        raise ConfigError(f"'{path}' is not a certificate, expected one in PEM") from error


def check_dates(certificate: x509.Certificate, *, what: str, now: datetime, remedy: str) -> None:
    """Check that a certificate is valid at `now`.

    Raises:
        ConfigError: expired, or not valid yet; the message has both the date and the clock's time.
    """
    if now > certificate.not_valid_after_utc:
        raise ConfigError(
            f"{what} expired on {moment(certificate.not_valid_after_utc)}, the clock here says {moment(now)}: {remedy}"
        )
    if now < certificate.not_valid_before_utc:
        raise ConfigError(
            f"{what} is valid from {moment(certificate.not_valid_before_utc)} on, the clock here says {moment(now)}: "
            "set this machine's clock"
        )


def check_issued_by(certificate: x509.Certificate, authority: x509.Certificate, *, what: str) -> None:
    """Check that the key of `authority` signed `certificate`.

    Raises:
        ConfigError: it did not.
    """
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, InternalError) as error:
        raise ConfigError(
            f"{what} is not signed by the authority beside it (ca.crt), expected one kit's files"
        ) from error


def check_key_of(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, *, what: str) -> None:
    """Check that `key` is the private half of the key in `certificate`.

    Raises:
        ConfigError: it is not.
    """
    try:
        own = certificate.public_key() == key.public_key()
    except (ValueError, UnsupportedAlgorithm, InternalError):
        own = False
    if not own:
        raise ConfigError(f"{what} is not for the key beside it, expected one kit's files")


def common_name(certificate: x509.Certificate) -> str:
    """The subject's common name; empty unless there is exactly one."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""


def role_of(certificate: x509.Certificate) -> Role | None:
    """The role that a certificate states, a client's by stating none; None for one that plait never issues."""
    units = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    if not units:
        return Role.CLIENT
    is_operator = len(units) == 1 and units[0].value == Role.OPERATOR
    return Role.OPERATOR if is_operator else None


@dataclass(frozen=True, slots=True)
class Shown:
    """What a member's certificate states."""

    name: str
    role: Role
    key_digest: bytes


def key_digest(key: CertificatePublicKeyTypes) -> bytes:
    """SHA-256 of a certificate's public key (its SubjectPublicKeyInfo), 32 bytes."""
    return sha256(
        key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    ).digest()


def shown_by(pem: bytes) -> Shown | None:
    """What a certificate in PEM states that TLS has verified; None if plait never issues such a one to a member."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        name, role = common_name(certificate), role_of(certificate)
        return Shown(name, role, key_digest(certificate.public_key())) if name and role else None
    except (ValueError, InternalError, UnsupportedAlgorithm):
        return None


def server_names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """The DNS names and IP addresses of the certificate."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    return (
        *names.get_values_for_type(x509.DNSName),
        *(str(address) for address in names.get_values_for_type(x509.IPAddress)),
    )


def moment(when: datetime) -> str:
    """`when` for people, to the minute, in UTC."""
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")

"""X.509 certificates and their ECDSA P-256 keys (TLS of gRPC takes no Ed25519): reading, checks, and who issues them.

The authority of a federation signs the certificates of the server and of all members. Its key can admit anyone, so it
belongs on no machine that takes part. A failed check is a ConfigError, a file that cannot be read a MachineError.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from plait.errors import ConfigError
from plait.system.address import is_ip_address
from plait.system.files import write_atomically
from plait.trust.keys import read_pem_key, read_small, write_secret


class Role(StrEnum):
    """What a member may do, as its certificate (by organizational unit; a client's has none) and the register state."""

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
    """Read a key in the format of `key_pem`."""
    return read_pem_key(path, ec.EllipticCurvePrivateKey, "ECDSA")


def read_certificate(path: Path) -> x509.Certificate:
    """Read a certificate in PEM."""
    try:
        return x509.load_pem_x509_certificate(read_small(path))
    except (ValueError, InternalError) as error:
        raise ConfigError(f"'{path}' is not a certificate in PEM") from error


def check_dates(certificate: x509.Certificate, *, what: str, now: datetime, remedy: str) -> None:
    """Check that a certificate is valid at `now`."""
    if now > certificate.not_valid_after_utc:
        raise ConfigError(
            f"{what} expired on {moment(certificate.not_valid_after_utc)}, the clock here shows {moment(now)}: {remedy}"
        )
    if now < certificate.not_valid_before_utc:
        raise ConfigError(
            f"{what} is valid from {moment(certificate.not_valid_before_utc)} on, the clock here shows {moment(now)}: "
            "set this machine's clock"
        )


def check_issued_by(certificate: x509.Certificate, authority: x509.Certificate, *, what: str) -> None:
    """Check that the key of `authority` signed `certificate`."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, InternalError) as error:
        raise ConfigError(
            f"{what} is not signed by the authority beside it (ca.crt): do not mix files of kits"
        ) from error


def check_key_of(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, *, what: str) -> None:
    """Check that `key` is the private half of the key in `certificate`."""
    try:
        own = certificate.public_key() == key.public_key()
    except (ValueError, UnsupportedAlgorithm, InternalError):
        own = False
    if not own:
        raise ConfigError(f"{what} is not for the key beside it: do not mix files of kits")


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


def key_der(key: CertificatePublicKeyTypes) -> bytes:
    """A public key as a certificate has it (its SubjectPublicKeyInfo)."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def key_digest(key: CertificatePublicKeyTypes) -> bytes:
    """SHA-256 of `key_der`, 32 bytes."""
    return sha256(key_der(key)).digest()


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


AUTHORITY_DAYS = 3653
LEAF_DAYS = 730
SERVER_COMMON_NAME = "plait server"
"""Common name of a server's certificate; a client's has its name, and no client name contains a space."""

# So that a certificate is valid at once on machines whose clock is a time zone off.
_BACKDATED = timedelta(days=1)


@dataclass(frozen=True)
class Authority:
    """A certificate authority: its certificate and private key."""

    certificate: x509.Certificate
    _key: ec.EllipticCurvePrivateKey = field(repr=False, compare=False)

    @classmethod
    def found(cls, *, now: datetime) -> Authority:
        """A new authority, valid for ten years from `now`."""
        key = new_key()
        # With two authorities of the same name, a wrong one would look like a broken signature.
        mark = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest.hex()[:8]
        subject = _named(f"plait authority {mark}")
        builder = (
            _builder(subject, key.public_key(), now=now, days=AUTHORITY_DAYS)
            .issuer_name(subject)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        )
        return cls(builder.sign(key, hashes.SHA256()), key)

    @classmethod
    def load(cls, directory: Path) -> Authority:
        """Read an authority that `save` wrote."""
        key, certificate = read_key(directory / "ca.key"), read_certificate(directory / "ca.crt")
        check_key_of(certificate, key, what=f"'{directory / 'ca.crt'}'")
        return cls(certificate, key)

    def save(self, directory: Path) -> None:
        """Write ``ca.key`` (mode 0600) and ``ca.crt`` into `directory`."""
        write_secret(directory / "ca.key", key_pem(self._key))
        write_atomically(directory / "ca.crt", certificate_pem(self.certificate))

    def days_left(self, *, now: datetime) -> int:
        """Whole days from `now` until it expires; 0 once it has."""
        return max((self.certificate.not_valid_after_utc - now).days, 0)

    def issue_server(
        self, key: ec.EllipticCurvePublicKey, names: Sequence[str], *, now: datetime, days: int
    ) -> x509.Certificate:
        """A certificate for a server, which it may also use as a client: an operator asks for the status with it."""
        addresses = [
            x509.IPAddress(ipaddress.ip_address(name)) if is_ip_address(name) else x509.DNSName(name) for name in names
        ]
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = self._leaf(_named(SERVER_COMMON_NAME), key, purposes, now=now, days=days)
        builder = builder.add_extension(x509.SubjectAlternativeName(addresses), critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def issue_member(
        self, key: ec.EllipticCurvePublicKey, name: str, *, role: Role = Role.CLIENT, now: datetime, days: int
    ) -> x509.Certificate:
        """A member's certificate, which is not valid for a server; its common name is the member's name."""
        subject = _named(name, "" if role is Role.CLIENT else role.value)
        builder = self._leaf(subject, key, [ExtendedKeyUsageOID.CLIENT_AUTH], now=now, days=days)
        return builder.sign(self._key, hashes.SHA256())

    def _leaf(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        purposes: Sequence[x509.ObjectIdentifier],
        *,
        now: datetime,
        days: int,
    ) -> x509.CertificateBuilder:
        left = self.days_left(now=now)
        if left < 1:
            raise ConfigError(
                f"authority expired on {moment(self.certificate.not_valid_after_utc)}: provision into a new folder"
            )
        if not 1 <= days <= left:
            raise ConfigError(f"days is {days}, expected 1 to {left}, the remaining validity of the authority")
        own = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        return (
            _builder(subject, key, now=now, days=days)
            .issuer_name(self.certificate.subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own), critical=False)
        )


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePublicKey, *, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _named(common_name: str, unit: str = "") -> x509.Name:
    units = [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit)] if unit else []
    return x509.Name([*units, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )

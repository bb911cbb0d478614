"""Keys and certificates: a node's Ed25519 key, which signs, and ECDSA P-256 for X.509 (TLS of gRPC takes no Ed25519).

The authority of a federation signs the certificates of the server and of all members. Its key can admit anyone, so it
belongs on no machine that takes part. A failed check, and what a file lacks, is a ConfigError with the remedy; a file
that cannot be read or written is a MachineError.
"""

import ipaddress
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import Self, TypeAlias, TypeVar

from cryptography import x509
from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from plait.errors import ConfigError, MachineError
from plait.system.address import is_ip_address
from plait.system.files import write_atomically

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
KEY_BYTES = 32
_SALT = b"plait secure aggregation 1"
MAX_FILE_BYTES = 65_536
_Key = TypeVar("_Key")


@dataclass(frozen=True)
class NodeKey:
    """A private key, and its public half, 32 bytes."""

    public_bytes: bytes
    _private: Ed25519PrivateKey = field(repr=False, compare=False)

    @classmethod
    def generate(cls) -> Self:
        """A new key from the operating system's random generator."""
        return cls._of(Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        """The key of 32 secret bytes; of a simulated client, whose key protects nothing."""
        return cls._of(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a key that `save` wrote (PEM, PKCS #8)."""
        return cls._of(read_pem_key(path, Ed25519PrivateKey, "Ed25519"))

    def save(self, path: Path) -> None:
        """Write the key to a new file of mode 0600."""
        write_secret(path, key_pem(self._private))

    def sign(self, data: bytes) -> bytes:
        """Signature over `data`, 64 bytes."""
        return self._private.sign(data)

    @classmethod
    def _of(cls, key: Ed25519PrivateKey) -> Self:
        return cls(key.public_key().public_bytes_raw(), key)


def read_pem_key(path: Path, kind: type[_Key], name: str) -> _Key:
    """The private key of this kind (by `name`) in a secret file: PEM, PKCS #8, without password."""
    try:
        key = serialization.load_pem_private_key(read_secret(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError) as error:
        raise ConfigError(f"'{path}' is not an {name} private key in PEM without password") from error
    if not isinstance(key, kind):
        raise ConfigError(f"'{path}' is not an {name} key")
    return key


def verify(public_key: bytes, signature: bytes, signed: bytes) -> bool:
    """Whether `signature` over `signed` was made with the private half of `public_key`; False for any other bytes."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, signed)
    except (ValueError, InvalidSignature):
        return False
    return True


Vouch: TypeAlias = Callable[[str, bytes, bytes, bytes], bool]
"""Whether a node key is a client's, by the authority: of name, key (32 bytes), certificate (DER) and endorsement.

Certificate and endorsement (its signature) are empty in a simulation.
"""


@dataclass(frozen=True)
class NodeIdentity:
    """The identity of one client: a node key, and the certificate that proves to others that it is this client's."""

    public_key: bytes
    sign: Callable[[bytes], bytes]
    vouch: Vouch
    certificate: bytes = b""
    endorsement: bytes = b""


def derived(secret: bytes, *purpose: bytes) -> bytes:
    """A key of 32 bytes for one purpose."""
    info = b"".join(len(part).to_bytes(4, "big") + part for part in purpose)
    return HKDF(SHA256(), KEY_BYTES, salt=_SALT, info=info).derive(secret)


def write_secret(path: Path, data: bytes) -> None:
    """Write `data` to a temporary file with mode 0600, fsync it and rename it to `path`, which must not exist."""
    if path.exists():
        raise ConfigError(f"'{path}' exists already: secrets are never overwritten")
    write_atomically(path, data)


def read_secret(path: Path) -> bytes:
    """The content of `path`, if only its owner can read it."""
    data = read_small(path)
    mode = path.stat().st_mode & 0o777
    if os.name != "nt" and mode & 0o077:
        raise ConfigError(
            f"'{path}' has mode {mode:04o}, so others can read it, expected 0600: chmod 600 {shlex.quote(str(path))}"
        )
    return data


def read_small(path: Path) -> bytes:
    """The content of `path`, at most 64 KiB."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigError(f"'{path}' is missing, expected a file that `plait provision` made") from error
    except OSError as error:
        raise MachineError(f"cannot read '{path}': {error.strerror or error}") from error
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"'{path}' is larger than {MAX_FILE_BYTES} bytes, expected a key or a certificate")
    return data


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


def key_pem(key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey) -> bytes:
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
    def found(cls, *, now: datetime) -> Self:
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
    def load(cls, directory: Path) -> Self:
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
    signs, not_for = signs_certificates, ("content_commitment", "key_agreement", "encipher_only", "decipher_only")
    none = dict.fromkeys((*not_for, "key_encipherment", "data_encipherment"), False)
    return x509.KeyUsage(digital_signature=not signs, key_cert_sign=signs, crl_sign=signs, **none)

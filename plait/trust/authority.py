"""The certificate authority of one federation: it signs the server's certificate and those of its clients.

Its key can admit anyone, so it belongs on no machine that takes part. Knows nothing of kits and of the register.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from plait.errors import ConfigError
from plait.system.address import is_ip_address
from plait.system.files import write_atomically
from plait.trust.certificate import (
    Role,
    certificate_pem,
    check_key_of,
    key_pem,
    moment,
    new_key,
    read_certificate,
    read_key,
)
from plait.trust.secret_file import write_secret

AUTHORITY_DAYS = 3653
LEAF_DAYS = 730
SERVER_COMMON_NAME = "plait server"
"""Common name of a server's certificate; a client's has its name, and no client name contains a space."""

# So that a certificate is valid at once on machines whose clock is a time zone off.
_BACKDATED = timedelta(days=1)


@dataclass(frozen=True)
class Authority:
    """A certificate authority with its private key.

    Attributes:
        certificate: its own certificate, which servers and clients trust.
    """

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
        """Read an authority that `save` wrote.

        Raises:
            ConfigError: a file is missing, malformed or readable by others, or key and certificate do not match.
            MachineError: cannot be read.
        """
        key, certificate = read_key(directory / "ca.key"), read_certificate(directory / "ca.crt")
        check_key_of(certificate, key, what=f"'{directory / 'ca.crt'}'")
        return cls(certificate, key)

    def save(self, directory: Path) -> None:
        """Write ``ca.key`` (mode 0600) and ``ca.crt`` into `directory`.

        Raises:
            ConfigError: ca.key already exists.
            MachineError: cannot be written.
        """
        write_secret(directory / "ca.key", key_pem(self._key))
        write_atomically(directory / "ca.crt", certificate_pem(self.certificate))

    def days_left(self, *, now: datetime) -> int:
        """Whole days from `now` until it expires; 0 once it has."""
        return max((self.certificate.not_valid_after_utc - now).days, 0)

    def issue_server(
        self, key: ec.EllipticCurvePublicKey, names: Sequence[str], *, now: datetime, days: int
    ) -> x509.Certificate:
        """A certificate for a server, which it may also use as a client: an operator asks for the status with it.

        Raises:
            ConfigError: it would outlive the authority.
        """
        alternatives = x509.SubjectAlternativeName(
            [
                x509.IPAddress(ipaddress.ip_address(name)) if is_ip_address(name) else x509.DNSName(name)
                for name in names
            ]
        )
        builder = self._leaf(SERVER_COMMON_NAME, key, now=now, days=days)
        return self._signed(
            builder.add_extension(alternatives, critical=False),
            purposes=[ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
        )

    def issue_member(
        self, key: ec.EllipticCurvePublicKey, name: str, *, role: Role = Role.CLIENT, now: datetime, days: int
    ) -> x509.Certificate:
        """A member's certificate, which is not valid for a server; its common name is the member's name.

        Args:
            role: its role; the organizational unit of all but clients.

        Raises:
            ConfigError: it would outlive the authority.
        """
        unit = "" if role is Role.CLIENT else role.value
        builder = self._leaf(name, key, now=now, days=days, unit=unit)
        return self._signed(builder, purposes=[ExtendedKeyUsageOID.CLIENT_AUTH])

    def _leaf(
        self, name: str, key: ec.EllipticCurvePublicKey, *, now: datetime, days: int, unit: str = ""
    ) -> x509.CertificateBuilder:
        left = self.days_left(now=now)
        if left < 1:
            raise ConfigError(
                f"authority expired on {moment(self.certificate.not_valid_after_utc)}, expected a valid one: "
                "provision into a new folder"
            )
        if not 1 <= days <= left:
            raise ConfigError(f"days is {days}, expected 1 to {left}, the remaining validity of the authority")
        return _builder(_named(name, unit), key, now=now, days=days)

    def _signed(
        self, builder: x509.CertificateBuilder, *, purposes: Sequence[x509.ObjectIdentifier]
    ) -> x509.Certificate:
        own = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        return (
            builder.issuer_name(self.certificate.subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own), critical=False)
            .sign(self._key, hashes.SHA256())
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

"""Start-up kits: what a server and a client need to trust each other, one directory to copy to each machine.

It has two keys: one for TLS, which the federation's authority has certified, and the node key, which signs. The first
endorses the second, so that whoever knows the authority's certificate can check both.

Loading raises ConfigError where a file is missing, malformed or readable by others, files do not belong together or a
certificate is not valid now, in one line with the remedy; and MachineError where a file cannot be read.
"""

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Self, TypeAlias, cast

from cryptography import x509
from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from plait.errors import ConfigError, check_format
from plait.system.text import check_client_name, read_toml
from plait.trust.keys import (
    NodeKey,
    Role,
    check_dates,
    check_issued_by,
    check_key_of,
    common_name,
    read_certificate,
    read_key,
    read_secret,
    read_small,
    role_of,
)

AUTHORITY_FILE = "ca.crt"
OPERATOR_TOKEN_FILE = "operator.token"  # noqa: S105 (a file's name)
CLIENT_SETTINGS_FILE = "kit.toml"
NODE_KEY_FILE = "node.key"

_ASKED = {"server": "--server-name", **{role.value: f"--{role.folder}" for role in Role}}
_WHERE = {"server": "DIR/server", **{role.value: f"DIR/{role.folder}/NAME" for role in Role}}
_TOKEN = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class TlsPair:
    """A certificate, its key and its authority's certificate in PEM; the first of both expires at `expires`."""

    key: bytes = field(repr=False)
    certificate: bytes = field(repr=False)
    authority: bytes = field(repr=False)
    expires: datetime


@dataclass(frozen=True)
class ServerKit:
    """A server's kit, with the token (in hexadecimal) for its status."""

    directory: Path
    tls: TlsPair
    operator_token: str = field(repr=False)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read and check ``DIR/server`` of `plait provision`, or a copy of it."""
        _check_kind(directory, "server")
        tls = load_tls_pair(directory, "server")
        token = read_secret(directory / OPERATOR_TOKEN_FILE).decode(errors="replace").strip()
        if not _TOKEN.fullmatch(token):
            raise ConfigError(f"'{directory / OPERATOR_TOKEN_FILE}' is not a token, expected 64 hexadecimal digits")
        return cls(directory, tls, token)


@dataclass(frozen=True)
class ClientKit:
    """A client's kit; its node key signs enrolment and updates."""

    directory: Path
    name: str
    node_key: NodeKey
    tls: TlsPair

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read and check ``DIR/clients/NAME`` of `plait provision`, or a copy of it."""
        _check_kind(directory, "client")
        name, _ = read_client_settings(directory)
        tls = _member_tls(directory, Role.CLIENT, name)
        return cls(directory, name, NodeKey.load(directory / NODE_KEY_FILE), tls)


@dataclass(frozen=True)
class StaffKit:
    """The kit of an operator of a standing server."""

    directory: Path
    name: str
    tls: TlsPair

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read and check ``DIR/operators/NAME`` of `plait provision`, or a copy of it."""
        _check_kind(directory, Role.OPERATOR)
        name, _ = read_client_settings(directory)
        return cls(directory, name, _member_tls(directory, Role.OPERATOR, name))


Kit: TypeAlias = ServerKit | ClientKit | StaffKit
"""Any kit; each has a certificate to show."""


def load_asking(directory: Path) -> ServerKit | StaffKit:
    """The kit of a caller that asks a server about its run: an operator, or the server itself."""
    return ServerKit.load(directory) if is_kit_of(directory, "server") else StaffKit.load(directory)


def operator_signing(directory: Path) -> Callable[[bytes], dict[str, str]]:
    """What signs in an operator's name: ``by``, its ``certificate`` in PEM, and the ``signature`` in hexadecimal."""
    kit = StaffKit.load(directory)
    key = read_key(directory / "operator.key")
    return lambda data: {
        "by": kit.name,
        "certificate": kit.tls.certificate.decode(),
        "signature": key.sign(data, ec.ECDSA(hashes.SHA256())).hex(),
    }


def _member_tls(directory: Path, role: Role, name: str) -> TlsPair:
    tls = load_tls_pair(directory, role.value)
    path = directory / f"{role}.crt"
    certificate = read_certificate(path)
    if (named := common_name(certificate)) != name:
        raise ConfigError(f"'{path}' is for {named!a}, expected '{name}' as {CLIENT_SETTINGS_FILE} states")
    if role_of(certificate) is not role:
        raise ConfigError(f"'{path}' is not {role.of}'s certificate, expected the one that `plait provision` made")
    return tls


def load_tls_pair(directory: Path, role: str) -> TlsPair:
    """``role.key``, ``role.crt`` and ``ca.crt``, if they belong together and are valid; the role may be server."""
    now = datetime.now(UTC)
    key_file, certificate_file, authority_file = (directory / f for f in (f"{role}.key", f"{role}.crt", AUTHORITY_FILE))
    authority, certificate = read_certificate(authority_file), read_certificate(certificate_file)
    check_key_of(certificate, read_key(key_file), what=f"'{certificate_file}'")
    check_issued_by(certificate, authority, what=f"'{certificate_file}'")
    check_dates(
        certificate,
        what=f"'{certificate_file}'",
        now=now,
        remedy=f"where kits are made, remove {role}.crt, run `plait provision` with {_ASKED[role]}, copy the new one",
    )
    check_dates(authority, what=f"'{authority_file}'", now=now, remedy="make new kits with `plait provision`")
    return TlsPair(
        key=read_secret(key_file),
        certificate=read_small(certificate_file),
        authority=read_small(authority_file),
        expires=min(certificate.not_valid_after_utc, authority.not_valid_after_utc),
    )


def client_settings(name: str, server_names: Sequence[str], role: Role = Role.CLIENT) -> bytes:
    """The content of ``kit.toml``, for `read_client_settings`."""
    lines = (
        f"# Start-up kit of one plait {role}. Copy the folder to that {role}'s machine and no other.",
        f"name = {json.dumps(name)}",
        f"server-names = {json.dumps(list(server_names))}",
    )
    return ("\n".join(lines) + "\n").encode()


def read_client_settings(directory: Path) -> tuple[str, tuple[str, ...]]:
    """The client's name, and the names of its server, from ``kit.toml``."""
    path = directory / CLIENT_SETTINGS_FILE
    try:
        table = read_toml(read_small(path))
    except ValueError as error:
        raise ConfigError(f"'{path}' is not TOML, expected the file that `plait provision` made") from error
    check_format(f"'{path}'", table.get("format", 1), 1, error=ConfigError)
    name, names = table.get("name"), table.get("server-names")
    texts = isinstance(names, list) and all(isinstance(entry, str) for entry in cast("list[object]", names))
    if set(table) != {"name", "server-names"} or not isinstance(name, str) or not texts:
        raise ConfigError(
            f"'{path}' has keys {ascii(sorted(table))[:120]}, expected name (text) and server-names (texts)"
        )
    return check_client_name(name), tuple(cast("list[str]", names))


def _check_kind(directory: Path, role: str) -> None:
    """Refuse a kit that is not a directory, belongs to another role, or contains all kits."""
    where = _WHERE[role]
    if not directory.is_dir():
        raise ConfigError(f"kit '{directory}' is not a directory: give {where} of `plait provision DIR`")
    if not os.access(directory, os.X_OK):
        raise ConfigError(f"kit '{directory}' cannot be entered by this user: check its permissions")
    if is_kit_of(directory, role) or (directory / f"{role}.key").exists():
        return
    for other in _WHERE:
        if is_kit_of(directory, other):
            raise ConfigError(
                f"kit '{directory}' is {_a(other)}'s, expected {_a(role)}'s: {where} of `plait provision DIR`"
            )
    if (directory / "server" / "server.crt").exists():
        raise ConfigError(f"kit '{directory}' holds all kits, expected the {role}'s own: {where} in it")


def is_kit_of(directory: Path, role: str) -> bool:
    """Whether the directory holds a kit of this `Role` or of the server; it may still be damaged."""
    return (directory / f"{role}.crt").exists()


def _a(role: str) -> str:
    return f"a {role}" if role == "server" else Role(role).of


_TEXT = b"plait node key 1"


@dataclass(frozen=True)
class Endorsement:
    """Proof that a node key is a client's: ECDSA with SHA-256 by the certificate's key over its name and node key."""

    certificate: bytes
    signature: bytes

    @classmethod
    def of(cls, kit: ClientKit) -> Self:
        """A kit's own, as of now."""
        certificate = read_certificate(kit.directory / "client.crt")
        key = read_key(kit.directory / "client.key")
        signature = key.sign(_signed(kit.name, kit.node_key.public_bytes), ec.ECDSA(hashes.SHA256()))
        return cls(certificate.public_bytes(serialization.Encoding.DER), signature)


def is_vouched_for(
    authority: bytes,
    client: str,
    node_key: bytes,
    certificate: bytes,
    endorsement: bytes,
    *,
    now: datetime | None = None,
) -> bool:
    """A `Vouch` over the certificate of a federation's authority, in PEM: whether it confirms a node key at `now`."""
    window = _window(authority, client, node_key, Endorsement(certificate, endorsement))
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

"""Make the kits of a federation, add clients and operators to it later, and revoke them.

::

    DIR/authority/     ca.key ca.crt                                            offline; only this command needs it
    DIR/server/        server.key server.crt ca.crt clients.json operator.token
    DIR/clients/NAME/  node.key client.key client.crt ca.crt kit.toml
    DIR/operators/NAME/  operator.key operator.crt ca.crt kit.toml

Existing files are never overwritten. A certificate that is missing from a kit is issued again for the kit's key, which
renews it.
"""

import ipaddress
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey as PublicKey
from cryptography.x509 import Certificate

from plait.errors import ConfigError
from plait.system.address import is_ip_address
from plait.system.files import directory_written_aside, ensure_private_directory, write_atomically
from plait.system.text import check_client_name, shown_name
from plait.trust.keys import (
    LEAF_DAYS,
    Authority,
    NodeKey,
    Role,
    certificate_pem,
    check_issued_by,
    common_name,
    key_digest,
    key_pem,
    new_key,
    read_certificate,
    read_key,
    server_names_of,
    write_secret,
)
from plait.trust.kit import (
    AUTHORITY_FILE,
    CLIENT_SETTINGS_FILE,
    NODE_KEY_FILE,
    OPERATOR_TOKEN_FILE,
    client_settings,
    read_client_settings,
)
from plait.trust.register import REGISTER_FILE, RegisteredClient, read_clients, write_clients

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")


class KitOutcome(Enum):
    """The result for one kit; REGISTERED: an earlier, interrupted call had left it out of the register."""

    MADE = "made"
    RENEWED = "renewed"
    REGISTERED = "registered"
    KEPT = "kept"


@dataclass(frozen=True)
class Provisioned:
    """One kit: of a member by name, with its key as the register has it (32 bytes), or of ``server``."""

    name: str
    directory: Path
    outcome: KitOutcome
    expires: datetime
    public_key: bytes = b""
    role: Role = Role.CLIENT


@dataclass(frozen=True)
class Federation:
    """The kits of one call; `clients` and `staff`, its operators, in the order of their names given."""

    server: Provisioned
    server_names: tuple[str, ...]
    clients: tuple[Provisioned, ...]
    authority_made: bool
    staff: tuple[Provisioned, ...] = ()


def provision(
    directory: Path,
    clients: Sequence[str],
    server_names: Sequence[str],
    *,
    operators: Sequence[str] = (),
    now: datetime,
    days: int | None = None,
) -> Federation:
    """Make the parts of a federation that do not exist yet: the authority, the server's kit, a kit for each member.

    Args:
        directory: of the kits; made if missing.
        server_names: DNS names and IP addresses that clients connect to; may be empty if the server has a kit.
        days: validity of new certificates; by default two years, or the authority's if that is less.

    Raises:
        ConfigError: a bad name, or one with another role, a member whose key is registered but whose kit is elsewhere,
            other server names than those of the existing certificate, or an authority or register that is missing.
    """
    server = directory / "server"
    registered = read_clients(server / REGISTER_FILE) if server.exists() else ()
    wanted = [(role, name) for role, names in ((Role.CLIENT, clients), (Role.OPERATOR, operators)) for name in names]
    check_client_names([name for _, name in wanted], taken=[client.name for client in registered])
    for role, name in wanted:
        _check_key(directory / role.folder / name, name, role, registered)
    server_names = _server_names(server / "server.crt", server_names)
    authority, authority_made = _authority(directory, now=now)
    if days is None:
        days = min(LEAF_DAYS, authority.days_left(now=now))
    server_kit = _server_kit(server, server_names, authority, now=now, days=days)
    for role in (Role.CLIENT, *{role: None for role, _ in wanted}):
        ensure_private_directory(directory / role.folder)
    kits = tuple(
        _member_kit(directory / role.folder / name, name, role, server_names, authority, now=now, days=days)
        for role, name in wanted
    )
    kits = _registered(server / REGISTER_FILE, kits, registered, now=now)
    own, staff = (tuple(kit for kit in kits if (kit.role is Role.CLIENT) is is_client) for is_client in (True, False))
    return Federation(server_kit, tuple(server_names), own, authority_made, staff)


def _registered(
    register: Path, kits: Sequence[Provisioned], registered: Sequence[RegisteredClient], *, now: datetime
) -> tuple[Provisioned, ...]:
    """Register new keys: last, so that their kits are complete; a second call registers what a crash left out."""
    known = {client.public_key for client in registered}
    fresh = [
        RegisteredClient(kit.name, kit.public_key, now, None, kit.role) for kit in kits if kit.public_key not in known
    ]
    if fresh:
        write_clients(register, [*registered, *fresh])
    return tuple(
        replace(kit, outcome=KitOutcome.REGISTERED)
        if kit.outcome is KitOutcome.KEPT and kit.public_key not in known
        else kit
        for kit in kits
    )


def revoke(directory: Path, name: str, *, now: datetime) -> RegisteredClient:
    """The member, revoked in ``DIR/server/clients.json``, which needs neither the authority nor the member's kit."""
    path = directory / "server" / REGISTER_FILE
    clients = read_clients(path)
    check_client_name(name)
    found = [client for client in clients if client.name == name]
    if not found:
        raise ConfigError(f"client '{name}' is not in '{path}', expected one of {_some([c.name for c in clients])}")
    holding = next((client for client in found if client.revoked is None), None)
    if holding is None:
        return found[-1]
    revoked = replace(holding, revoked=now)
    write_clients(path, [revoked if client is holding else client for client in clients])
    return revoked


def _check_key(kit: Path, name: str, role: Role, registered: Sequence[RegisteredClient]) -> None:
    holding = next((client for client in registered if client.name == name and client.revoked is None), None)
    if holding is not None and holding.role is not role:
        raise ConfigError(f"'{name}' is {holding.role.of}: give {role.of} another name, or revoke it first")
    if not kit.exists():
        if holding is not None:
            raise ConfigError(
                f"{role} '{name}' has a key already but no kit in '{kit}': restore it, or revoke "
                f"the {role} first to give it a new key"
            )
        return
    key = _registered_key(kit, role)
    if any(client.public_key == key and client.revoked is not None for client in registered):
        raise ConfigError(f"key in '{kit}' is revoked: remove that folder to make a new kit")
    if holding is not None and holding.public_key != key:
        raise ConfigError(f"key in '{kit}' is not the registered one of '{name}': restore the right kit")


def _server_names(certificate: Path, given: Sequence[str]) -> tuple[str, ...]:
    existing = server_names_of(read_certificate(certificate)) if certificate.exists() else ()
    if not existing or (given and set(check_server_names(given)) != set(existing)):
        names = check_server_names(given)
        if existing:
            raise ConfigError(
                f"server names are {', '.join(names)}, expected those of '{certificate}': {', '.join(existing)} "
                "(remove that file first to have it issued for other names)"
            )
        return names
    return existing


def _authority(directory: Path, *, now: datetime) -> tuple[Authority, bool]:
    home = directory / "authority"
    if home.exists():
        return Authority.load(home), False
    if (directory / "server").exists():
        raise ConfigError(f"'{home}' is missing: restore the authority's folder to make kits")
    ensure_private_directory(directory)
    authority = Authority.found(now=now)
    with directory_written_aside(home) as aside:
        authority.save(aside)
    return authority, True


def _server_kit(kit: Path, names: Sequence[str], authority: Authority, *, now: datetime, days: int) -> Provisioned:
    if not kit.exists() and (kit.parent / "clients").exists():
        raise ConfigError(f"'{kit}' is missing: copy the server's kit back, it has the register")

    def fill(aside: Path) -> None:
        write_secret(aside / OPERATOR_TOKEN_FILE, f"{secrets.token_hex(32)}\n".encode())
        write_clients(aside / REGISTER_FILE, ())

    sign = partial(authority.issue_server, names=names, now=now, days=days)
    outcome, certificate = _made(kit, "server", authority, sign, fill)
    return Provisioned("server", kit, outcome, certificate.not_valid_after_utc)


def _member_kit(
    kit: Path, name: str, role: Role, server_names: Sequence[str], authority: Authority, *, now: datetime, days: int
) -> Provisioned:
    if kit.exists() and (own_name := read_client_settings(kit)[0]) != name:
        raise ConfigError(f"kit '{kit}' is for {role} '{own_name}', expected '{name}'")

    def fill(aside: Path) -> None:
        if role is Role.CLIENT:
            NodeKey.generate().save(aside / NODE_KEY_FILE)
        write_atomically(aside / CLIENT_SETTINGS_FILE, client_settings(name, server_names, role))

    sign = partial(authority.issue_member, name=name, role=role, now=now, days=days)
    outcome, certificate = _made(kit, role, authority, sign, fill)
    if common_name(certificate) != name:
        raise ConfigError(f"'{kit / f'{role}.crt'}' is for {common_name(certificate)!a}, expected '{name}'")
    return Provisioned(name, kit, outcome, certificate.not_valid_after_utc, _registered_key(kit, role), role)


def _made(
    kit: Path,
    role: str,
    authority: Authority,
    sign: Callable[[PublicKey], Certificate],
    fill: Callable[[Path], None],
) -> tuple[KitOutcome, Certificate]:
    """Make a kit, if it is missing, or its certificate alone; `fill` adds what only such a kit has."""
    if not kit.exists():
        with directory_written_aside(kit) as aside:
            write_secret(aside / f"{role}.key", key_pem(new_key()))
            write_atomically(aside / AUTHORITY_FILE, certificate_pem(authority.certificate))
            fill(aside)
            _issue(aside, role, sign)
        outcome = KitOutcome.MADE
    else:
        outcome = _issue(kit, role, sign)
    certificate = read_certificate(kit / f"{role}.crt")
    check_issued_by(certificate, authority.certificate, what=f"'{kit / f'{role}.crt'}'")
    return outcome, certificate


def _issue(kit: Path, role: str, sign: Callable[[PublicKey], Certificate]) -> KitOutcome:
    path = kit / f"{role}.crt"
    if path.exists():
        return KitOutcome.KEPT
    write_atomically(path, certificate_pem(sign(read_key(kit / f"{role}.key").public_key())))
    return KitOutcome.RENEWED


def _registered_key(kit: Path, role: Role) -> bytes:
    """The key of a kit as the register has it, 32 bytes."""
    if role is Role.CLIENT:
        return NodeKey.load(kit / NODE_KEY_FILE).public_bytes
    return key_digest(read_key(kit / f"{role}.key").public_key())


def _some(names: Sequence[str]) -> str:
    known = list(dict.fromkeys(names))
    return ", ".join(known[:8]) + (f" and {len(known) - 8} more" if len(known) > 8 else "") if known else "none"


def check_client_names(names: Iterable[str], *, taken: Iterable[str] = ()) -> None:
    """Refuse invalid names, and any two that a case-insensitive file system would put into one folder.

    A name that is in `taken` exactly is that client's.
    """
    seen = {name.casefold(): name for name in taken}
    given = set[str]()
    for name in map(check_client_name, names):
        if name in given:
            raise ConfigError(f"client name '{name}' is given twice")
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise ConfigError(f"client name '{name}' differs from '{other}' only in case: choose another name")
        given.add(name)


def check_server_names(names: Iterable[str]) -> tuple[str, ...]:
    """DNS names (in lower case) and IP addresses (in canonical form) in order, without duplicates."""
    checked = tuple(dict.fromkeys(_server_name(name) for name in names))
    if not checked:
        raise ConfigError("server name is missing: give the DNS names or IP addresses that clients connect to")
    return checked


def _server_name(name: str) -> str:
    if is_ip_address(name):
        return str(ipaddress.ip_address(name))
    lower = name.lower()
    labels = lower.split(".")
    # A last label of digits would make it a mistyped IPv4 address.
    if len(lower) <= 253 and all(map(_LABEL.fullmatch, labels)) and not labels[-1].isdecimal():
        return lower
    raise ConfigError(
        f"server name is {shown_name(name)}, expected a DNS name (in ASCII, without port or wildcard) or an IP address"
    )

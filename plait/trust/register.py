"""The server's list of provisioned members, ``clients.json``: who may enrol and with which key, and who is revoked.

A running server notices changes at once. A name can be listed several times, with revoked keys and at most one valid
key. Members are clients and, with a ``role``, operators.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Annotated, Self, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from plait.errors import ConfigError
from plait.system.files import read_if_there, write_atomically
from plait.system.text import check_client_name, read_json
from plait.trust.keys import PUBLIC_KEY_BYTES, Role

REGISTER_FILE = "clients.json"

_TIME = "%Y-%m-%dT%H:%M:%SZ"


class Verdict(Enum):
    """The register's answer about a name and a key."""

    KNOWN = "known"
    UNKNOWN_KEY = "unknown key"
    REVOKED_KEY = "revoked key"
    WRONG_NAME = "wrong name"


def _time(value: object) -> datetime:
    return value if isinstance(value, datetime) else datetime.strptime(str(value), _TIME).replace(tzinfo=UTC)


def _role(value: object) -> object:
    if value not in list(Role):
        raise ValueError(f"expected one of {', '.join(Role)}")
    return value


_Time: TypeAlias = Annotated[datetime, BeforeValidator(_time)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", val_json_bytes="hex"))
class RegisteredClient:
    """One line of the register.

    The public key has 32 bytes: of an operator, who has no node key, the SHA-256 of the key in the certificate.
    Anything but null revokes, so that a typing mistake never admits a client.
    """

    name: Annotated[str, AfterValidator(check_client_name)]
    public_key: Annotated[bytes, Field(min_length=PUBLIC_KEY_BYTES, max_length=PUBLIC_KEY_BYTES)]
    provisioned: _Time
    revoked: _Time | None
    role: Annotated[Role, BeforeValidator(_role)] = Role.CLIENT


class _File(BaseModel):
    clients: tuple[RegisteredClient, ...]


class Register:
    """The register of a server's kit, read from disk for every question.

    Raises:
        ConfigError: at a question too: the file is malformed, or missing: an old list admits no one.
        MachineError: likewise: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = _stamp_of(path)
        self._read()

    @classmethod
    def load(cls, kit: Path) -> Self:
        """The register in the directory of a server's kit."""
        return cls(kit / REGISTER_FILE)

    @property
    def clients(self) -> tuple[RegisteredClient, ...]:
        """All clients, revoked ones included, in the file's order."""
        return tuple(self._current().values())

    @property
    def number_of_clients(self) -> int:
        """How many clients have a valid key."""
        return sum(member.role is Role.CLIENT and member.revoked is None for member in self._current().values())

    def check(self, name: str, public_key: bytes) -> Verdict:
        """Whether a client of this name and key (32 bytes) may take part."""
        return self.holds(Role.CLIENT, name, public_key)

    def holds(self, role: Role, name: str, public_key: bytes) -> Verdict:
        """Whether the owner of this name and key (32 bytes, see `RegisteredClient`) has this role."""
        member = self._current().get(public_key)
        if member is None or member.role is not role:
            return Verdict.UNKNOWN_KEY
        if member.revoked is not None:
            return Verdict.REVOKED_KEY
        return Verdict.KNOWN if member.name == name else Verdict.WRONG_NAME

    def standing(self, name: str) -> Verdict:
        """Whether a client of this name may take part, with any key; its certificate proves no more than the name."""
        self._current()
        return self._standings.get(name, Verdict.UNKNOWN_KEY)

    def _current(self) -> Mapping[bytes, RegisteredClient]:
        stamp = _stamp_of(self._path)
        if stamp != self._stamp:
            self._read()
            self._stamp = stamp
        return self._clients

    def _read(self) -> None:
        members = read_clients(self._path)
        self._clients: Mapping[bytes, RegisteredClient] = {member.public_key: member for member in members}
        clients = [member for member in members if member.role is Role.CLIENT]
        # A name that was revoked and provisioned again has a valid key.
        revoked = {client.name: Verdict.REVOKED_KEY for client in clients}
        self._standings = revoked | {client.name: Verdict.KNOWN for client in clients if client.revoked is None}


def read_clients(path: Path) -> tuple[RegisteredClient, ...]:
    """The clients of a register, in its order."""
    if (data := read_if_there(path)) is None:
        raise ConfigError(f"'{path}' is missing, expected the register that `plait provision` made")
    try:
        read_json(data, pairs=_without_duplicates)
        clients = _File.model_validate_json(data).clients
    except ValidationError as error:
        first = error.errors()[0]
        _, number, key, *_ = (*map(str, first["loc"]), "", "", "")
        what = f"{key or 'form'} of client {number}" if number else "list 'clients'"
        found, message = str(first["input"])[:40], first["msg"].removeprefix("Value error, ")
        raise ConfigError(
            f"{what} in '{path}' is {found!a}, {message}; restore the register that `plait provision` made"
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"'{path}' is not JSON with every key once: restore the register that `plait provision` made"
        ) from error
    _check_unique(clients, path)
    return clients


def write_clients(path: Path, clients: Iterable[RegisteredClient]) -> None:
    """Write a register atomically, one client per line."""
    lines = ",\n    ".join(json.dumps(_line(client)) for client in clients)
    text = f'{{\n  "clients": [\n    {lines}\n  ]\n}}\n' if lines else '{\n  "clients": []\n}\n'
    write_atomically(path, text.encode())


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    built = dict(pairs)
    if len(built) != len(pairs):
        raise ValueError("a key is given twice")
    return built


def _line(client: RegisteredClient) -> dict[str, str | None]:
    role = {"role": client.role.value} if client.role is Role.OPERATOR else {}
    return {
        "name": client.name,
        "public_key": client.public_key.hex(),
        "provisioned": client.provisioned.astimezone(UTC).strftime(_TIME),
        "revoked": client.revoked and client.revoked.astimezone(UTC).strftime(_TIME),
        **role,
    }


def _check_unique(clients: Iterable[RegisteredClient], path: Path) -> None:
    keys: set[bytes] = set()
    holding: set[str] = set()
    for client in clients:
        if client.public_key in keys:
            raise ConfigError(f"key of '{client.name}' is listed twice in '{path}'")
        keys.add(client.public_key)
        if client.revoked is None:
            if client.name.casefold() in holding:
                raise ConfigError(f"'{client.name}' has two valid keys in '{path}' (case aside)")
            holding.add(client.name.casefold())


def _stamp_of(path: Path) -> tuple[int, int, int]:
    """What differs between two versions of a file; zeros if there is none."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_ino, found.st_mtime_ns, found.st_size)

"""What clients and servers may be called.

A client's name becomes a folder, a line in the register and the common name of a certificate, so it is taken for
hostile. A server's name is what its certificate is checked against. Knows nothing of who is registered.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from plait.errors import ConfigError

MAX_NAME_CHARACTERS = 64

_CLIENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")


def check_client_name(name: str) -> str:
    """`name` itself, if a client may be called so.

    Raises:
        ConfigError: another character than ASCII letters, digits, '-', '_' and '.', a leading dot, nothing, or more
            than 64 characters.
    """
    if not _CLIENT.fullmatch(name):
        raise ConfigError(
            f"client name is {_shown(name)}, expected at most {MAX_NAME_CHARACTERS} letters (a-z, A-Z), digits, '-', "
            "'_' and '.', with no dot in front"
        )
    return name


def check_client_names(names: Iterable[str], *, taken: Iterable[str] = ()) -> tuple[str, ...]:
    """`names` as they are, if each is a name and no two, nor one of `taken`, differ only in case.

    A name that is in `taken` letter by letter passes: that is the same client.

    Raises:
        ConfigError: a bad name, or two that a file system without case would put into one folder.
    """
    checked: list[str] = []
    seen = {name.casefold(): name for name in taken}
    given: set[str] = set()
    for name in names:
        check_client_name(name)
        if name in given:
            raise ConfigError(f"client name '{name}' is given twice, expected every name once")
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise ConfigError(f"client name '{name}' differs from '{other}' only in case, expected another name")
        given.add(name)
        checked.append(name)
    return tuple(checked)


def check_server_names(names: Iterable[str]) -> tuple[str, ...]:
    """DNS names (in lower case) and IP addresses (in canonical form) in their order, each once.

    Raises:
        ConfigError: none at all, or one that is neither.
    """
    checked = tuple(dict.fromkeys(_server_name(name) for name in names))
    if not checked:
        raise ConfigError("server name is missing, expected the DNS names or IP addresses that clients connect to")
    return checked


def is_address(name: str) -> bool:
    """Whether `name` is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _server_name(name: str) -> str:
    if is_address(name):
        return str(ipaddress.ip_address(name))
    lower = name.lower()
    labels = lower.split(".")
    # A last label of digits would make it a mistyped IPv4 address.
    if len(lower) <= 253 and all(map(_LABEL.fullmatch, labels)) and not labels[-1].isdecimal():
        return lower
    raise ConfigError(
        f"server name is {_shown(name)}, expected a DNS name (in ASCII, without port or wildcard) or an IP address"
    )


def _shown(name: str) -> str:
    return ascii(name if len(name) <= 80 else f"{name[:80]}...")


def is_loopback(host: str) -> bool:
    """Whether a host can only be this machine, whatever a resolver says.

    Args:
        host: DNS name or IP address, with or without brackets.
    """
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"

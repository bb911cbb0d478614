"""Valid names of servers, which clients check against certificates."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from plait.errors import ConfigError
from plait.system.address import is_ip_address
from plait.trust.names import shown_name

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")


def check_server_names(names: Iterable[str]) -> tuple[str, ...]:
    """DNS names (in lower case) and IP addresses (in canonical form) in order, without duplicates.

    Raises:
        ConfigError: none at all, or an invalid one.
    """
    checked = tuple(dict.fromkeys(_server_name(name) for name in names))
    if not checked:
        raise ConfigError("server name is missing, expected the DNS names or IP addresses that clients connect to")
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

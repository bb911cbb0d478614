"""Valid names of clients, and of servers, which clients check against certificates.

A client's name becomes a folder, a line in the register and the common name of a certificate, so it is treated as
hostile. Knows nothing of who is registered.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Iterable

from plait.errors import ConfigError
from plait.system.address import is_ip_address

MAX_NAME_BYTES = 64

_CLIENT = re.compile(r"[\w-][\w.-]*")
# Unicode classes of invisible letters.
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164")
# Marks with which some scripts write vowels and accents.
_MARKS = ("Mn", "Mc")


def is_client_name(name: str) -> bool:
    """Whether a client may have this name.

    Letters and digits of any script, ``-``, ``_`` and ``.``, with no dot in front, in Unicode's compatibility form
    (NFKC), so that two names that look alike are equal: at most `MAX_NAME_BYTES` in UTF-8, the limit of a certificate.
    """
    if not 0 < len(name) <= MAX_NAME_BYTES or any("\ud800" <= char <= "\udfff" for char in name):
        return False
    return (
        len(name.encode()) <= MAX_NAME_BYTES
        and _CLIENT.fullmatch(_without_marks(name)) is not None
        and not unicodedata.category(name[0]).startswith("M")
        and _INVISIBLE.isdisjoint(name)
        and unicodedata.is_normalized("NFKC", name)
    )


def check_client_name(name: str) -> str:
    """`name` itself, if a client may have it."""
    if not is_client_name(name):
        raise ConfigError(
            f"client name is {shown_name(name)}, expected letters and digits of any script, '-', '_' and '.', with no "
            f"dot in front, at most {MAX_NAME_BYTES} bytes (a letter of another script takes 2 to 4)"
        )
    return name


def nearest_name(text: str) -> str:
    """`text` with a dash for every character that no client name has; it may still be too long, or begin with a dot."""
    kept = "".join(
        char if char in "_.-" or char.isalnum() or unicodedata.category(char) in _MARKS else " "
        for char in unicodedata.normalize("NFKC", text)
        if char not in _INVISIBLE
    )
    return "-".join(kept.split())


def composed(name: str) -> str:
    """`name` with accents composed (NFC), as keyboards write it; file systems may decompose them."""
    return unicodedata.normalize("NFC", name)


def _without_marks(name: str) -> str:
    return "".join(char for char in name if unicodedata.category(char) not in _MARKS)


def shown_name(name: str) -> str:
    """A name as messages have it."""
    return ascii(name if len(name) <= 80 else f"{name[:80]}...")


_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")


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

"""The host names that requests may address, and the pages that they may come from.

A web page can make a browser send requests to this machine. Its own address is then in ``Origin``, and if its name
resolves to this machine (DNS rebinding), that name is in ``Host``; neither is a name of this server. Of HTTP it knows
only these two headers.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from plait.address import is_ip_address, is_loopback

ANY = "*"


@dataclass(frozen=True)
class AllowedHosts:
    """The names of a server.

    Attributes:
        names: besides those of loopback, in lower case, without ports; `ANY` for all.
        any_address: whether any IP address that a request arrived under is accepted. No name resolves to those, so only
            a page from that very address can use one.
    """

    names: frozenset[str] = frozenset()
    any_address: bool = False

    @classmethod
    def of(cls, bound: str, more: Iterable[str] = ()) -> AllowedHosts:
        """The names of a server that listens at one address of this machine, or at all of them."""
        names = {bound.lower(), *(name.strip().lower() for name in more)} - {""}
        everywhere = bound in ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
        if everywhere:
            names |= {socket.gethostname().lower()}
        return cls(frozenset(names), any_address=everywhere)

    def has(self, authority: str) -> bool:
        """Whether ``Host`` is one of the names.

        Args:
            authority: a name or address, perhaps with a port.
        """
        name = _name_of(f"//{authority}")
        return self._is_one(name) or (self.any_address and is_ip_address(name))

    def has_origin(self, origin: str, authority: str) -> bool:
        """Whether a page of this ``Origin`` may send requests: one of this server, or of one of the names.

        Args:
            origin: scheme and authority, or ``null``.
            authority: the request's ``Host``.
        """
        name = _name_of(origin)
        return self._is_one(name) or (bool(name) and name == _name_of(f"//{authority}"))

    def _is_one(self, name: str) -> bool:
        return ANY in self.names or name in self.names or is_loopback(name)


def _name_of(url: str) -> str:
    try:
        parts = urlsplit(url)
        return "" if "@" in parts.netloc or parts.path else parts.hostname or ""
    except ValueError:
        return ""

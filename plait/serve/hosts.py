"""By which names requests may call this server, and from which pages they may come.

A page on the web can have a browser send requests to this machine. Its own address stands in ``Origin``, and where it
has its own name resolve to this machine (DNS rebinding), that name stands in ``Host``; neither is a name of this
server. Knows no HTTP but these two headers.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from plait.address import is_ip_address

ANY = "*"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class AllowedHosts:
    """The names of a server.

    Attributes:
        names: in lower case, without ports; `ANY` for all there are.
        any_address: whether it may be called by whatever IP address a request reached it under. No name resolves to
            those, so no page but one from that very address can bring one.
    """

    names: frozenset[str] = frozenset(_LOOPBACK)
    any_address: bool = False

    @classmethod
    def of(cls, bound: str, more: Iterable[str] = ()) -> AllowedHosts:
        """The names of a server that listens at one address of this machine, or at all of them.

        Args:
            bound: the address, or a name of it.
            more: further names, from the operator.
        """
        names = {*_LOOPBACK, bound.lower(), *(name.strip().lower() for name in more)} - {""}
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
        return ANY in self.names or name in self.names or (self.any_address and is_ip_address(name))

    def has_origin(self, origin: str, authority: str) -> bool:
        """Whether a page of this ``Origin`` may send requests: one of this server, or of one of the names.

        Args:
            origin: scheme and authority, or ``null``.
            authority: the request's ``Host``.
        """
        name = _name_of(origin)
        return ANY in self.names or name in self.names or (bool(name) and name == _name_of(f"//{authority}"))


def _name_of(url: str) -> str:
    try:
        parts = urlsplit(url)
        return "" if "@" in parts.netloc or parts.path else parts.hostname or ""
    except ValueError:
        return ""

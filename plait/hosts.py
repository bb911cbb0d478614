"""The host names that requests may address.

A web page whose name resolves to this machine (DNS rebinding) can make a browser send requests to it; that name is then
in ``Host``, and is none of this server's. Of HTTP it knows only this header.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from plait.address import is_loopback

ANY = "*"


@dataclass(frozen=True)
class AllowedHosts:
    """The names of a server.

    Attributes:
        names: besides those of loopback, in lower case, without ports; `ANY` for all.
    """

    names: frozenset[str] = frozenset()

    def has(self, authority: str) -> bool:
        """Whether ``Host`` is one of the names.

        Args:
            authority: a name or address, perhaps with a port.
        """
        name = _name_of(f"//{authority}")
        return ANY in self.names or name in self.names or is_loopback(name)


def _name_of(url: str) -> str:
    try:
        parts = urlsplit(url)
        return "" if "@" in parts.netloc or parts.path else parts.hostname or ""
    except ValueError:
        return ""

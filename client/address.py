"""Where the server is: a host and a port.

Looks nothing up; a name counts as loopback only where no resolver could say otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

from plait.errors import ConfigError
from plait.trust.names import is_loopback


@dataclass(frozen=True)
class ServerAddress:
    """A server's address.

    Attributes:
        host: DNS name or IP address, without brackets.
        port: 1 to 65535.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> ServerAddress:
        """Read ``HOST:PORT`` or ``[IPv6]:PORT``.

        Raises:
            ConfigError: it is neither.
        """
        host, colon, port = text.strip().rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        host = host[1:-1] if bracketed else host
        good_host = bool(host) and (bracketed or ":" not in host) and not set(host) & set("/@ \t[]")
        if not colon or not good_host or not (port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 65536):
            raise ConfigError(f"server is {text!a}, expected HOST:PORT such as plait.example.org:9440")
        return cls(host, int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether it can only be this machine."""
        return is_loopback(self.host)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

"""Network addresses as an operator types them, ``HOST:PORT`` or ``[IPV6]:PORT``.

Resolves no name except in `Address.check_free`: a host counts as loopback only if no resolver could say otherwise.
"""

import errno
import ipaddress
import re
import socket
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from plait.errors import ConfigError, MachineError

_ADDRESS = re.compile(r"(?:\[(?P<six>[^\s\[\]]+)\]|(?P<host>[^\s:\[\]/@]+)):(?P<port>[0-9]{1,5})")
_MOST_SHOWN = 120


def is_ip_address(host: str) -> bool:
    """Whether `host` is an IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether a host, a name or an IP address without brackets, can only be this machine."""
    return ipaddress.ip_address(host).is_loopback if is_ip_address(host) else host.lower() == "localhost"


@dataclass(frozen=True)
class Address:
    """A host (a name in any script, or an IP address without brackets) and a TCP port; 0, for servers only, is any."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, *, what: str = "address", listening: bool = False) -> Self:
        """Read ``HOST:PORT`` or ``[IPV6]:PORT``; port 0 if `listening`. ConfigError for anything else."""
        found = _ADDRESS.fullmatch(text.strip())
        port = int(found["port"]) if found else 0
        if (
            found is None
            or not (0 if listening else 1) <= port <= 65535
            or (found["six"] and (":" not in found["six"] or not is_ip_address(found["six"])))
        ):
            raise ConfigError(
                f"{what} is {ascii(text)[:_MOST_SHOWN]}, "
                "expected HOST:PORT such as plait.example.org:9440 or [::1]:9440"
            )
        return cls(found["six"] or found["host"], port)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether it can only be this machine."""
        return is_loopback(self.host)

    def check_free(self) -> None:
        """Check that a server can listen on every address of the host.

        Raises:
            ConfigError: the host is unknown, or belongs to another machine.
            MachineError: the port is taken, or not allowed for this user.
        """
        try:
            infos = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except OSError as error:
            raise ConfigError(f"host of '{self}' is unknown ({error.strerror}); name one of this machine") from error
        tried = 0
        for family, kind, protocol, _, place in infos:
            try:
                with socket.socket(family, kind, protocol) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    if family == socket.AF_INET6:
                        probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    probe.bind(place)
                    probe.listen()
                tried += 1
            except OSError as error:
                # A machine without IPv6 still resolves localhost to ::1.
                if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    raise self.cannot_listen(error) from error
        if not tried:
            raise ConfigError(f"'{self}' is not an address of this machine; 0.0.0.0 is all of them")

    def bind(self) -> socket.socket:
        """A socket bound here, which accepts no connections yet: a port in use is reported before anything is loaded.

        Raises MachineError if it is in use or not allowed for this user, or the address is another machine's.
        """
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self.host, self.port))
        except OSError as error:
            listener.close()
            raise self.cannot_listen(error) from error
        return listener

    def cannot_listen(self, error: OSError) -> MachineError:
        """The error for a server that cannot listen here."""
        reasons = {
            errno.EADDRINUSE: "the port is in use; if another server is running, stop it or choose another --listen",
            errno.EACCES: f"port {self.port} is not allowed for this user, choose one above 1023",
        }
        reason = reasons.get(error.errno or 0, error.strerror or str(error))
        return MachineError(f"cannot listen on {self}: {reason}")


def is_own_host(authority: str) -> bool:
    """Whether a request's ``Host``, a name or address perhaps with a port, can only be this machine."""
    try:
        parts = urlsplit(f"//{authority}")
    except ValueError:
        return False
    return "@" not in parts.netloc and not parts.path and is_loopback(parts.hostname or "")

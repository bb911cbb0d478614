"""Where a server listens: host and port as an operator types them, and whether they can be had.

Knows nothing of what is served there.
"""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
from dataclasses import dataclass

from plait.errors import ConfigError, MachineError

_ADDRESS = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s:\[\]/]+)):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True)
class Address:
    """Host (a name, or an IP address without brackets) and port; port 0 is any free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``HOST:PORT`` or ``[IPV6]:PORT``.

        Raises:
            ConfigError: it is neither.
        """
        found = _ADDRESS.fullmatch(text)
        if found is None or int(found["port"]) > 65535:
            raise ConfigError(
                f"address is {ascii(text)[:120]}, expected HOST:PORT such as 127.0.0.1:9440 or [::1]:9440"
            )
        return cls(found["six"] or found["host"], int(found["port"]))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect to it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def check_free(self) -> None:
        """Check that every address that the host stands for can be listened on.

        Raises:
            ConfigError: the host is not known, or is another machine's.
            MachineError: the port is taken, or not for this user.
        """
        try:
            infos = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except OSError as error:
            raise ConfigError(f"host of '{self}' is not known ({error.strerror}), expected this machine's") from error
        tried = 0
        for family, kind, protocol, _, place in infos:
            try:
                self._try(family, kind, protocol, place)
                tried += 1
            except OSError as error:
                # A machine without IPv6 still resolves localhost to ::1.
                if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    continue
                raise MachineError(f"cannot listen on {self}: {self._reason(error)}") from error
        if not tried:
            raise ConfigError(f"'{self}' is no address of this machine, expected one, or 0.0.0.0 for all")

    @staticmethod
    def _try(family: int, kind: int, protocol: int, place: object) -> None:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(place)  # pyright: ignore[reportArgumentType] (what getaddrinfo gives, bind takes)
            probe.listen()

    def _reason(self, error: OSError) -> str:
        if error.errno == errno.EADDRINUSE:
            return "the port is taken, is another server running? Stop it or choose another --listen"
        if error.errno == errno.EACCES:
            return f"port {self.port} is not for this user, choose one above 1023"
        return error.strerror or str(error)

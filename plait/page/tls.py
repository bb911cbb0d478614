"""TLS of the page: the certificate of the server's kit, read again when it was renewed. Knows nothing of HTTP."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

_FILES = ("server.crt", "server.key", "ca.crt")
_Stamp = tuple[tuple[int, int, int], ...]


def tls_of(kit: Path) -> ssl.SSLContext:
    """TLS 1.3 with the certificate of a server's kit; who comes may show one of the same authority.

    Every handshake takes the certificate that is in the kit by then. What cannot be used, because it is half copied,
    is left alone until it changes again; so long the earlier one stays.

    Args:
        kit: checked by `ServerKit.load`.
    """
    newest, stamp = _context(kit), _stamp(kit)
    served = _context(kit)

    def take_newest(connection: ssl.SSLObject, name: str | None, served: ssl.SSLContext) -> None:
        nonlocal newest, stamp
        del name, served
        if (now := _stamp(kit)) != stamp:
            stamp = now
            try:
                newest = _context(kit)
            except OSError as error:
                logging.getLogger("plait.page").warning("the page keeps its earlier certificate: %s", error)
        connection.context = newest

    served.sni_callback = take_newest
    return served


def _context(kit: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(kit / "server.crt", kit / "server.key")
    context.load_verify_locations(kit / "ca.crt")
    context.verify_mode = ssl.CERT_OPTIONAL
    context.num_tickets = 0  # a certificate is shown, and verified, on every connection
    context.set_alpn_protocols(["http/1.1"])
    return context


def _stamp(kit: Path) -> _Stamp:
    """Changes whenever a file does; empty while one is missing."""
    try:
        found = [(kit / name).stat() for name in _FILES]
    except OSError:
        return ()
    return tuple((each.st_ino, each.st_mtime_ns, each.st_size) for each in found)

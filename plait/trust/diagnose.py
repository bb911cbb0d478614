"""Why a node cannot reach its server: one line with the cause and the remedy, found by trying each step.

gRPC reports a refused certificate, a wrong clock and an absent server in almost the same words. This repeats a
connection step by step: name, address, TLS, the server's certificate, this node's certificate.
"""

import contextlib
import os
import socket
import ssl
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from plait.errors import PlaitError
from plait.system.address import Address, is_loopback
from plait.trust.keys import moment, read_certificate, server_names_of
from plait.trust.kit import AUTHORITY_FILE, ClientKit, Kit, StaffKit, load_tls_pair

_STEP_S = 5.0
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
"""Variables in which gRPC looks for a proxy, in this order, and those for direct connections:"""
_STRAIGHT = ("no_grpc_proxy", "no_proxy")

# OpenSSL's X509_V_ERR_*, which the ssl module gives only as numbers.
_NOT_YET_VALID, _EXPIRED, _WRONG_PURPOSE, _HOST_MISMATCH, _ADDRESS_MISMATCH = 9, 10, 26, 62, 64
_NOT_TRUSTED = frozenset({2, 7, 18, 19, 20, 21, 24, 30, 31})


def explain(address: Address, kit: Kit | None) -> str:
    """The problem between this machine and a server, in one line with the remedy; `kit` is None without TLS.

    Takes up to five seconds per step if the network drops packets; a name server may take longer.
    """
    return _explain(address, kit) + _by_proxy(address.host)


def server_expires(address: Address, kit: Kit) -> datetime | None:
    """When the certificate that a server shows expires; None if it shows none."""
    shown = _shown_certificate(address, _own(kit))
    return None if shown is None else shown.not_valid_after_utc


def _own(kit: Kit) -> Path:
    """The certificate of a kit; its key has the same name."""
    role = "operator" if isinstance(kit, StaffKit) else "client" if isinstance(kit, ClientKit) else "server"
    return kit.directory / f"{role}.crt"


def _explain(where: Address, kit: Kit | None) -> str:
    unreachable = _unreachable(where)
    if unreachable or kit is None:
        return unreachable or (
            f"{where} is there but does not answer without TLS: is it a plait server started with --insecure?"
        )
    own = _own(kit)
    try:
        load_tls_pair(own.parent, own.stem)
        return _tls_failure(where, own)
    except PlaitError as error:
        return f"this node's own kit cannot be used: {error}"


def _by_proxy(host: str) -> str:
    """A note that gRPC uses a proxy, if it does; everything here connects directly."""
    proxy = next((name for name in _PROXIES if os.environ.get(name)), None)
    excepted = next((names for variable in _STRAIGHT if (names := os.environ.get(variable))), "").split(",")
    straight = any(entry.strip() and host.endswith(entry.strip()) for entry in excepted)
    if proxy is None or straight or is_loopback(host):
        return ""
    return f" (gRPC uses the proxy that {proxy} names; with no_proxy={host} in the environment it connects directly)"


def _unreachable(where: Address) -> str:
    """Why no TCP connection can be made; empty if one can."""
    try:
        _connect(where).close()
    except (socket.gaierror, UnicodeError) as error:
        reason = error.strerror if isinstance(error, socket.gaierror) else "not a DNS name"
        return f"server's name '{where.host}' is not found ({reason}): check --server, and this machine's name server"
    except ConnectionRefusedError:
        return f"nothing listens at {where} (connection refused): is the server running, and is this its --listen port?"
    except TimeoutError:
        return f"no answer from {where} in {_STEP_S:.0f} s: check the address, and firewalls on the way (one TCP port)"
    except OSError as error:
        return f"no route to {where} ({error.strerror or error}): check this machine's network and the address"
    return ""


def _tls_failure(where: Address, own: Path) -> str:
    try:
        return _greet(where, own)
    except ssl.SSLCertVerificationError as error:
        return _server_certificate(error, where, own)
    except ssl.SSLError as error:
        return _alert(error, own, where)
    except TimeoutError:
        return f"{where} accepts connections but starts no TLS in {_STEP_S:.0f} s: is it the plait server's port?"
    except OSError as error:
        return f"{where} closed the connection during TLS ({error.strerror or error}): is it the plait server's port?"


def _greet(where: Address, own: Path) -> str:
    context = _context(own)
    context.load_verify_locations(cafile=own.with_name(AUTHORITY_FILE))
    with _connect(where) as raw, context.wrap_socket(raw, server_hostname=where.host) as tls:
        # With TLS 1.3 the server checks this node's certificate after the handshake: its verdict, or HTTP/2's first
        # frame, is the first data to arrive. Nothing is sent, since a reset would discard the verdict.
        try:
            greeted = tls.recv(1) != b""
        except TimeoutError:
            greeted = True
        if not greeted:
            return _refused("closed the connection after seeing this node's certificate", own, where)
        if tls.selected_alpn_protocol() != "h2":
            return (
                f"{where} speaks TLS but not gRPC (no HTTP/2): a proxy on the way, or another server of this authority?"
            )
    return (
        f"TLS with {where} works now: the server was starting or busy, or it refuses more connections; retrying helps"
    )


def _server_certificate(error: ssl.SSLCertVerificationError, where: Address, own: Path) -> str:
    code, now, shown = error.verify_code, datetime.now(UTC), _shown_certificate(where, own)
    if code in _NOT_TRUSTED:
        return (
            f"certificate of the server at {where} is not from this kit's authority (ca.crt): is it another server, or "
            "was one of the two kits made in another folder?"
        )
    if code == _EXPIRED and shown is not None:
        return (
            f"certificate of the server at {where} expired on {moment(shown.not_valid_after_utc)}, the clock here "
            f"shows {moment(now)}: if this clock is right, renew the server's certificate (remove server.crt, run "
            "`plait provision` with --server-name)"
        )
    if code == _NOT_YET_VALID and shown is not None:
        return (
            f"certificate of the server at {where} is valid from {moment(shown.not_valid_before_utc)} on, the clock "
            f"here shows {moment(now)}: set this machine's clock, or the clock of the machine that made the kits"
        )
    if code in (_HOST_MISMATCH, _ADDRESS_MISMATCH):
        names = server_names_of(shown)[:8] if shown is not None else ()
        return (
            f"certificate of the server at {where} is for {', '.join(names) or 'another name'}, expected {where.host}: "
            "connect by a name it has, or issue it again (remove server.crt, run `plait provision` with --server-name)"
        )
    if code == _WRONG_PURPOSE:
        return (
            f"certificate shown at {where} is a client's, expected a server's: do not use this server before you know "
            "who runs it"
        )
    return f"certificate of the server at {where} is not valid ({error.verify_message}): make a new kit for the server"


def _alert(error: ssl.SSLError, own: Path, where: Address) -> str:
    reason = error.reason or ""
    alert = reason.rpartition("ALERT_")[2].replace("_", " ").lower()
    if "EXPIRED" in reason:
        return _refused("reports that this node's certificate has expired", own, where)
    if any(word in reason for word in ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED", "DECRYPT_ERROR")):
        return _refused(f"refuses this node's certificate ({alert})", own, where)
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return _refused("closed the connection after seeing this node's certificate", own, where)
    if "ALERT" in reason:
        return f"server at {where} aborts TLS ({alert}): is it a plait server of the same version?"
    return f"{where} does not speak TLS: is it a server started with --insecure, or another service?"


def _refused(what: str, own: Path, where: Address) -> str:
    certificate = read_certificate(own)
    return (
        f"server at {where} {what}; the certificate is valid from {moment(certificate.not_valid_before_utc)} to "
        f"{moment(certificate.not_valid_after_utc)}, the clock here shows {moment(datetime.now(UTC))}: check the "
        "server's clock, and that both kits were made in one folder"
    )


def _shown_certificate(where: Address, own: Path) -> x509.Certificate | None:
    """The certificate that a server shows, unverified; None if it shows none."""
    context = _context(own)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with contextlib.suppress(OSError, ValueError):
        with _connect(where) as raw, context.wrap_socket(raw, server_hostname=where.host) as tls:
            shown = tls.getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(shown) if shown else None
    return None


def _context(own: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_cert_chain(own, own.with_suffix(".key"))
    context.set_alpn_protocols(["h2"])
    return context


def _connect(where: Address) -> socket.socket:
    return socket.create_connection((where.host, where.port), timeout=_STEP_S)

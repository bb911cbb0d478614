"""Serves the page on a socket, bounded in connections, in time and in what it holds for each reader."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from functools import partial
from types import FrameType

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from plait.page.app import Page
from plait.page.keeper import CERTIFICATE
from plait.trust.certificate import shown_by

MOST_CONNECTIONS = 256
MOST_OF_ONE = 96
"""Connections at once: of all, and of one address."""
_SEND_BYTES = 1 << 17
_REQUEST_S = 10.0
_UNREAD_S = 30.0
_HANDSHAKE_S = 10.0
_HEADER_BYTES = 16 << 10


class BoundedListener(socket.socket):
    """Ends connections beyond the numbers as they come, before TLS, and holds little for those that do not read."""

    def __init__(self, fileno: int) -> None:
        super().__init__(fileno=fileno)
        self._accepted: list[tuple[socket.socket, str]] = []
        self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)  # of what it accepts

    def accept(self) -> tuple[socket.socket, tuple[str, int]]:
        """The next connection.

        Raises:
            ConnectionAbortedError: it was one too many.
        """
        connection, address = super().accept()
        self._accepted = [(one, whose) for one, whose in self._accepted if one.fileno() >= 0]
        of_this = sum(whose == address[0] for _, whose in self._accepted)
        if len(self._accepted) >= MOST_CONNECTIONS or of_this >= MOST_OF_ONE:
            connection.close()
            raise ConnectionAbortedError
        self._accepted.append((connection, address[0]))
        return connection, address


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 that ends connections that send no request, and those that do not read."""

    _request_due: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request, but not for long."""
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            self.app = partial(_certified, self.app, tls.getpeercert(binary_form=True))
        self._request_due = self.loop.call_later(_REQUEST_S, self._check_request)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        super().connection_lost(exc)
        for timer in (self._request_due, self._stalled):
            if timer is not None:
                timer.cancel()

    def pause_writing(self) -> None:
        """The reader is slower than what is written."""
        super().pause_writing()
        self._stalled = self.loop.call_later(_UNREAD_S, self.transport.abort)

    def resume_writing(self) -> None:
        """The reader has read."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()

    def _check_request(self) -> None:
        if self.cycle is None or self.cycle.response_complete:  # pyright: ignore[reportUnnecessaryComparison]
            self.transport.abort()
        else:
            self._request_due = self.loop.call_later(_REQUEST_S, self._check_request)


async def _certified(app: ASGIApp, certificate: bytes | None, scope: Scope, receive: Receive, send: Send) -> None:
    """Pass a request on with what the certificate of its connection states."""
    shown = None if certificate is None else shown_by(ssl.DER_cert_to_PEM_cert(certificate).encode())
    await app({**scope, CERTIFICATE: shown}, receive, send)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, page: Page) -> None:
        super().__init__(config)
        self._page = page

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, which lets a handshake take a minute."""
        loop = asyncio.get_running_loop()
        if self.config.ssl is not None:
            loop.create_server = partial(loop.create_server, ssl_handshake_timeout=_HANDSHAKE_S)  # type: ignore[method-assign]
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._page.end()
        super().handle_exit(sig, frame)


def serve(page: Page, listener: socket.socket, *, tls: ssl.SSLContext | None = None) -> None:
    """Serve until a signal ends it.

    Args:
        page: what to serve.
        listener: bound and listening.
        tls: None for plain HTTP.
    """
    config = uvicorn.Config(
        page.app(),
        http=BoundedProtocol,
        ws="none",
        log_level="critical",
        loop="asyncio",
        access_log=False,
        server_header=False,
        h11_max_incomplete_event_size=_HEADER_BYTES,
        timeout_graceful_shutdown=2,
    )
    config.load()
    config.ssl = tls
    with contextlib.suppress(KeyboardInterrupt), BoundedListener(os.dup(listener.fileno())) as bounded:
        _Server(config, page).run(sockets=[bounded])

"""Serves the page on a socket, bounded in connections, in time and in what it holds for each reader."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import Counter
from functools import partial

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from plait.page.app import Page
from plait.page.defences import KNOWN

MOST_UNKNOWN = 64
"""Connections at once that have not shown the token; a further one takes the place of an older one."""
MOST_KNOWN = 256
"""Connections at once that have."""
_SEND_BYTES = 1 << 17
_REQUEST_S = 5.0
_UNREAD_S = 30.0
_HEADER_BYTES = 16 << 10


class Connections:
    """All connections of one page, so that those who know the token find room however many others come."""

    def __init__(self) -> None:
        self._unknown: dict[BoundedProtocol, str] = {}
        self._known: set[BoundedProtocol] = set()

    def add(self, connection: BoundedProtocol, address: str) -> None:
        """A connection was made; the oldest of the address that has most gives way."""
        if len(self._unknown) >= MOST_UNKNOWN:
            ((most, _),) = Counter(self._unknown.values()).most_common(1)
            oldest = next(one for one, whose in self._unknown.items() if whose == most)
            self.remove(oldest)
            oldest.transport.abort()
        self._unknown[connection] = address

    def note_known(self, connection: BoundedProtocol) -> bool:
        """A connection has shown the token; whether there is room for it."""
        if connection in self._known:
            return True
        if connection not in self._unknown or len(self._known) >= MOST_KNOWN:
            return False
        del self._unknown[connection]
        self._known.add(connection)
        return True

    def remove(self, connection: BoundedProtocol) -> None:
        """A connection has ended."""
        self._unknown.pop(connection, None)
        self._known.discard(connection)


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 that ends connections that send no whole request in time, and those that do not read."""

    guests: Connections
    _request_due: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request, but not for long."""
        super().connection_made(transport)
        self.app = partial(_with_connection, self.app, self)
        self.guests.add(self, self.client[0] if self.client else "")
        self._request_due = self.loop.call_later(_REQUEST_S, self._check_request)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection and its timers."""
        super().connection_lost(exc)
        self.guests.remove(self)
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

    def note_known(self) -> None:
        """The token was shown."""
        if not self.guests.note_known(self):
            self.transport.abort()

    def _check_request(self) -> None:
        if self.cycle is None or self.cycle.response_complete:  # pyright: ignore[reportUnnecessaryComparison]
            self.transport.abort()
        else:
            self._request_due = self.loop.call_later(_REQUEST_S, self._check_request)


async def _with_connection(app: ASGIApp, one: BoundedProtocol, scope: Scope, receive: Receive, send: Send) -> None:
    """Pass a request on with how to note that its connection is known."""
    await app({**scope, KNOWN: one.note_known}, receive, send)


def serve(page: Page, listener: socket.socket) -> None:
    """Serve until a signal ends it."""
    config = uvicorn.Config(
        page.app(),
        http=type("_Protocol", (BoundedProtocol,), {"guests": Connections()}),
        ws="none",
        log_level="critical",
        loop="asyncio",
        access_log=False,
        server_header=False,
        h11_max_incomplete_event_size=_HEADER_BYTES,
        timeout_graceful_shutdown=2,
    )
    with contextlib.suppress(KeyboardInterrupt), socket.socket(fileno=os.dup(listener.fileno())) as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)  # of what it accepts
        uvicorn.Server(config).run(sockets=[own])

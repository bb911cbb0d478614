"""The page over HTTP: the page itself, and each run as JSON, which the page asks for every second; it changes nothing.

``python -m plait.page.app FILE PLACE LINE`` serves on a listening socket, which it inherits as file FILE, until its
standard input ends. LINE is the number of the socket that leads to the server, or -1. The token is in its environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from importlib.resources import files
from multiprocessing.connection import Connection
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from plait.errors import ConfigError, PlaitError
from plait.page.beside import page_token
from plait.page.defences import KNOWN, Headers, TokenCheck
from plait.page.feed import Feed, Live
from plait.rounds.run_directory import RunDirectory
from plait.system.child import on_stdin_end

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


class Page:
    """What the routes share: a run, perhaps one to compare it with, and what the server beside it sees now."""

    def __init__(self, runs: Sequence[Path], *, token: str, live: Live | None = None) -> None:
        self._feeds = {place.resolve().name: Feed(place) for place in runs}
        if len(runs) > 2 or len(self._feeds) < len(runs):
            raise ConfigError(
                f"runs are {', '.join(map(str, runs))}: give one, or a second of another name to compare it with"
            )
        self._token = token
        self._live = live
        self._assets = _assets()

    def app(self) -> Starlette:
        """The application, for any ASGI server."""
        return Starlette(
            routes=[
                Route("/", self._asset),
                Route("/assets/{name}", self._asset),
                Route("/api/runs", self._runs),
                Route("/api/runs/{run}", self._run),
            ],
            middleware=[Middleware(Headers), Middleware(TokenCheck, token=self._token)],
            exception_handlers={PlaitError: _failed, 404: _not_there, 405: _not_there},
        )

    async def _asset(self, request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        found = self._assets.get(name)
        if found is None:
            return await _not_there(request, None)
        return _tagged(request, found, media_type=_TYPES[Path(name).suffix])

    async def _runs(self, _: Request) -> Response:
        return JSONResponse({"runs": list(self._feeds)})

    async def _run(self, request: Request) -> Response:
        """The run's document, and under ``live`` what each client does as the server beside the page sees it now."""
        name = request.path_params["run"]
        feed = self._feeds.get(name)
        if feed is None:
            return await _not_there(request, None)
        document = await asyncio.to_thread(feed.document)
        live = {} if self._live is None else await asyncio.to_thread(self._live.of, name)
        body = b'{"live":%b,"document":%b}' % (json.dumps(live).encode(), document)
        return _tagged(request, body, media_type="application/json")


def run_shown(place: Path) -> Path:
    """A run that is there to be shown; ConfigError if it holds none."""
    if not RunDirectory(place).has_started:
        raise ConfigError(f"'{place}' holds no run: it has no ledger.jsonl with an event")
    return place


def _assets() -> dict[str, bytes]:
    """The page's own files by name; all of them are in memory, so no request names a path."""
    folder = files("plait.page") / "assets"
    return {file.name: file.read_bytes() for file in folder.iterdir() if Path(file.name).suffix in _TYPES}


def _tagged(request: Request, body: bytes, *, media_type: str) -> Response:
    """An answer, or that nothing has changed."""
    tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    headers = {"etag": tag, "cache-control": "no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type=media_type)


async def _not_there(_: Request, __: Exception | None) -> Response:
    return JSONResponse({"error": "there is nothing at this address"}, status_code=404)


async def _failed(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, status_code=500)


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


def main() -> None:
    """Serve until standard input ends."""
    _, file, place, line = sys.argv
    with socket.socket(fileno=int(file)) as listener:
        on_stdin_end(lambda: os.kill(os.getpid(), signal.SIGTERM))
        live = Live(Connection(int(line))) if int(line) >= 0 else None
        serve(Page([Path(place)], token=page_token(), live=live), listener)


if __name__ == "__main__":
    main()

"""The page over HTTP: the page itself, and each run as JSON, which the page asks for every second; it changes nothing.

Only loopback's names are the page's, so that a foreign name for this machine (DNS rebinding) is refused. The token is
in the address that plait prints, as Jupyter's is; the page's first answer turns it into a cookie.

``python -m plait.page.app FILE PLACE LINE`` serves on a listening socket, which it inherits as file FILE, until its
standard input ends. LINE is the number of the socket that leads to the server, or -1. The token is in its environment.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import re
import secrets
import signal
import socket
import sys
from collections.abc import Sequence
from importlib.resources import files
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from plait.errors import ConfigError, PlaitError
from plait.page.beside import page_token
from plait.page.feed import Feed, Live
from plait.rounds.run_directory import RunDirectory
from plait.system.address import is_own_host
from plait.system.child import on_stdin_end

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
_PORT = re.compile(r":([0-9]{1,5})$")
_REFUSED = "open the address that plait printed when it started, with its token"


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
            middleware=[Middleware(BaseHTTPMiddleware, dispatch=self._guarded)],
            exception_handlers={PlaitError: _failed, 404: _not_there, 405: _not_there},
        )

    async def _guarded(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        """Refuse strangers and other sites' pages; every answer has the headers."""
        status, wrong = _what_is_wrong(request)
        at_root, cookie = request.url.path == "/", _cookie_of(request)
        is_in_address = self._is_token(request.query_params.get("token", ""))
        if wrong:
            answer = JSONResponse({"error": wrong}, status_code=status)
        elif is_in_address or self._is_token(request.cookies.get(cookie, "")):
            answer = await call_next(request)
            if is_in_address and at_root:
                # Of this host alone, out of scripts' reach, and never sent along with what another site's page asks.
                kept = f"{cookie}={self._token}; Path=/; HttpOnly; SameSite=Strict"
                answer.headers.append("set-cookie", kept)
        elif at_root:
            answer = PlainTextResponse(f"To see this page, {_REFUSED}.\n", status_code=401)
        else:
            answer = JSONResponse({"error": _REFUSED}, status_code=401)
        answer.headers.update(_HEADERS)
        answer.headers.setdefault("cache-control", "no-store")
        return answer

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(errors="replace"), self._token.encode())

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


def _what_is_wrong(request: Request) -> tuple[int, str]:
    """Status and reason for a request from a foreign name or page, or that is none for a look; no reason otherwise."""
    hosts, origins, sites, modes = map(request.headers.getlist, ("host", "origin", "sec-fetch-site", "sec-fetch-mode"))
    host = hosts[0] if len(hosts) == 1 else ""
    if not is_own_host(host):
        return 403, f"host is {host[:80]!a}, expected localhost or 127.0.0.1"
    if any(_authority(origin) != host.lower() for origin in origins):
        return 403, "the request comes from a page of another origin"
    # A link to the page may be followed from anywhere; what it shows is asked for by the page itself.
    if any(site not in ("same-origin", "none") for site in sites) and modes != ["navigate"]:
        return 403, "the request comes from another site"
    return (0, "") if request.method in ("GET", "HEAD") else (405, "this server is read-only: use GET")


def _authority(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _cookie_of(request: Request) -> str:
    """The cookie's name: browsers share cookies between the ports of a host, where other pages may be served."""
    port = _PORT.search(request.headers.get("host", ""))
    return f"plait-{port[1] if port else 80}"


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


def serve(page: Page, listener: socket.socket) -> None:
    """Serve until a signal ends it."""
    config = uvicorn.Config(
        page.app(),
        http="h11",
        ws="none",
        log_level="critical",
        loop="asyncio",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])


def main() -> None:
    """Serve until standard input ends."""
    _, file, place, line = sys.argv
    with socket.socket(fileno=int(file)) as listener:
        on_stdin_end(lambda: os.kill(os.getpid(), signal.SIGTERM))
        live = Live(Connection(int(line))) if int(line) >= 0 else None
        serve(Page([Path(place)], token=page_token(), live=live), listener)


if __name__ == "__main__":
    main()

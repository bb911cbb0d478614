"""The page's HTTP layer: the page itself, and each run as JSON, which the page asks for every second.

It only shows: what changes a run is asked for with `plait` and an operator's kit.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from plait.errors import ConfigError, PlaitError
from plait.page.defences import Headers, TokenCheck
from plait.page.feed import Feed, Live
from plait.rounds.run_directory import RunDirectory

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
                f"runs are {', '.join(map(str, runs))}, expected one, or a second of another name to compare it with"
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
        raise ConfigError(f"'{place}' holds no run (no ledger.jsonl with an event), expected a run")
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

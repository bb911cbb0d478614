"""The page's HTTP layer: the page itself, the runs and the queue as JSON, one run as server-sent events.

It only shows: what changes a run is asked for with `plait` and an operator's kit.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from importlib.resources import files
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from plait.errors import PlaitError
from plait.features.page.catalogue import Catalogue
from plait.features.page.feed import Feed
from plait.features.page.headers import Headers
from plait.features.page.line import Line
from plait.features.page.live import Live
from plait.features.page.stream import messages
from plait.features.page.token import TokenCheck

MOST_WATCHERS = 64
"""Streams at once."""
_MOST_FEEDS = 8
_LOOK_EVERY_S = 0.2
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


class Page:
    """What the routes share.

    Args:
        token: that visitors must know.
        line: to the server beside it; None for none.
    """

    def __init__(self, catalogue: Catalogue, *, token: str, line: Line | None = None) -> None:
        self._catalogue = catalogue
        self._token = token
        self._live = None if line is None else Live(line)
        self._feeds: dict[Path, Feed] = {}
        self._watchers: Counter[Feed] = Counter()
        self._changed = asyncio.Condition()
        self._ended = False
        self._assets = _assets()

    def app(self) -> Starlette:
        """The application, for any ASGI server."""
        return Starlette(
            routes=[
                Route("/", self._asset),
                Route("/assets/{name}", self._asset),
                Route("/api/runs", self._runs),
                Route("/api/runs/{run}", self._run),
                Route("/api/runs/{run}/events", self._events),
            ],
            middleware=[Middleware(Headers), Middleware(TokenCheck, token=self._token)],
            exception_handlers={PlaitError: _failed, 404: _not_there, 405: _not_there},
            lifespan=self._lifespan,
        )

    def end(self) -> None:
        """Let every stream end, so that the server can."""
        self._ended = True

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncGenerator[None]:
        looking = asyncio.create_task(self._look())
        try:
            yield
        finally:
            looking.cancel()

    async def _look(self) -> None:
        while not self._ended:
            for feed in list(self._watchers):
                await self._read(feed)
            if self._live is not None and self._watchers and await asyncio.to_thread(self._live.look):
                await self._tell()
            await asyncio.sleep(_LOOK_EVERY_S)
        await self._tell()

    async def _read(self, feed: Feed) -> None:
        """Read what was appended, and wake the watchers."""
        more = True
        while more:
            has_changed, more = await asyncio.to_thread(feed.read)
            if has_changed:
                await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _asset(self, request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        found = self._assets.get(name)
        if found is None:
            return await _not_there(request, None)
        body, tag = found
        headers = {"etag": tag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(body, headers=headers, media_type=_TYPES[Path(name).suffix])

    async def _runs(self, _: Request) -> Response:
        return JSONResponse({"runs": await asyncio.to_thread(self._catalogue.list)})

    async def _run(self, request: Request) -> Response:
        feed = await self._feed(request)
        if feed is None:
            return await _not_there(request, None)
        _, document = await asyncio.to_thread(feed.document)
        return Response(document, media_type="application/json")

    async def _events(self, request: Request) -> Response:
        feed = await self._feed(request)
        if feed is None:
            return await _not_there(request, None)
        if self._watchers.total() >= MOST_WATCHERS:
            body = {"error": f"{MOST_WATCHERS} pages are open already; close one"}
            return JSONResponse(body, status_code=503, headers={"retry-after": "10"})
        said = request.headers.get("last-event-id") or request.query_params.get("after", "")
        after = int(said) if said.isascii() and said.isdigit() and len(said) < 16 else -1
        stream = messages(
            feed,
            self._changed,
            after=after,
            run=request.query_params.get("run", ""),
            ended=lambda: self._ended,
            live=lambda: (0, b"") if self._live is None else self._live.of(request.path_params["run"]),
        )
        return StreamingResponse(self._watched(feed, stream), media_type="text/event-stream")

    async def _watched(self, feed: Feed, stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        self._watchers[feed] += 1
        try:
            async for message in stream:
                yield message
        finally:
            self._watchers -= Counter([feed])

    async def _feed(self, request: Request) -> Feed | None:
        place = await asyncio.to_thread(self._catalogue.find, request.path_params["run"])
        if place is None:
            return None
        feed = self._feeds.pop(place, None) or Feed(place)
        # The one used last is the last to go.
        self._feeds[place] = feed
        idle = [there for there, each in self._feeds.items() if each not in self._watchers and each is not feed]
        for there in idle[: max(0, len(self._feeds) - _MOST_FEEDS)]:
            del self._feeds[there]
        # A watcher that comes back may have more of it than a server that has just started.
        await self._read(feed)
        return feed


def _assets() -> dict[str, tuple[bytes, str]]:
    """The page's own files and their tags, by name; all of them are in memory, so no request names a path."""
    folder = files("plait.features.page") / "assets"
    found = [file for file in folder.iterdir() if Path(file.name).suffix in _TYPES]
    bodies = {file.name: file.read_bytes() for file in found}
    return {name: (body, f'"{hashlib.sha256(body).hexdigest()[:16]}"') for name, body in bodies.items()}


async def _not_there(_: Request, error: Exception | None) -> Response:
    del error
    return JSONResponse({"error": "there is nothing at this address"}, status_code=404)


async def _failed(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, status_code=500)

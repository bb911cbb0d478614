"""The page's HTTP layer: the page itself, the runs and the queue as JSON, one run as server-sent events.

It changes nothing itself. What an operator asks for goes to the server beside it, over the line.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import cast

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from plait.adapters import Json
from plait.errors import ConfigError, MachineError, PlaitError
from plait.hosts import AllowedHosts
from plait.page.catalogue import Catalogue
from plait.page.door import Door, TooManyError, TurnedAwayError
from plait.page.feed import Feed
from plait.page.headers import Headers
from plait.page.keeper import Keeper, session_of, visitor_of, with_session
from plait.page.line import Line
from plait.page.live import Live
from plait.page.passes import Visitor
from plait.page.schema import openapi
from plait.page.stream import messages
from plait.trust.roles import Role

MOST_WATCHERS = 64
MOST_OF_ONE = 16
"""Streams at once: of all, and of one visitor of a page with a door."""
_MOST_FEEDS = 8
_LOOK_EVERY_S = 0.2
_MOST_QUESTION_BYTES = 4096
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


class Page:
    """What the routes share.

    Args:
        catalogue: the runs to show.
        hosts: the names of this server.
        door: who may come in; None lets in whoever can reach it, to look.
        line: to the server beside it; None for none.
    """

    def __init__(
        self, catalogue: Catalogue, hosts: AllowedHosts, *, door: Door | None = None, line: Line | None = None
    ) -> None:
        self._catalogue = catalogue
        self._hosts = hosts
        self._door = door
        self._line = line
        self._live = None if line is None else Live(line)
        self._feeds: dict[Path, Feed] = {}
        self._watchers: dict[Feed, int] = {}
        self._streams: Counter[str] = Counter()
        self._changed = asyncio.Condition()
        self._ended = False
        self._assets = _assets()

    def app(self) -> Starlette:
        """The application, for any ASGI server."""
        return Starlette(
            routes=[
                Route("/", self._asset),
                Route("/assets/{name}", self._asset),
                Route("/api/openapi.json", self._openapi),
                Route("/api/runs", self._runs),
                Route("/api/runs/{run}", self._run),
                Route("/api/runs/{run}/events", self._events),
                Route("/api/queue", self._queue),
                Route("/api/me", self._me),
                *(self._at_the_door() if self._door is not None else ()),
            ],
            middleware=[
                Middleware(Headers, hosts=self._hosts, takes_acts=self._door is not None),
                Middleware(Keeper, door=self._door),
            ],
            exception_handlers={
                TooManyError: _too_many,
                TurnedAwayError: _turned_away,
                ConfigError: _refused,
                PlaitError: _failed,
                404: _not_there,
                405: _not_there,
            },
            lifespan=self._lifespan,
        )

    def _at_the_door(self) -> tuple[Route, ...]:
        return (
            Route("/enter", self._door_page),
            Route("/api/enter", self._enter, methods=["POST"]),
            Route("/api/leave", self._leave, methods=["POST"]),
            Route("/api/links", self._make_link, methods=["POST"]),
            Route("/api/queue/{run}/cancel", self._cancel, methods=["POST"]),
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
        """Read what was appended, and wake whoever waits for it."""
        more = True
        while more:
            has_changed, more = await asyncio.to_thread(feed.read)
            if has_changed:
                await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _door_page(self, request: Request) -> Response:
        return await self._asset(request, "door.html")

    async def _asset(self, request: Request, page: str = "index.html") -> Response:
        name = request.path_params.get("name", page)
        found = self._assets.get(name)
        if found is None:
            return await _not_there(request, None)
        body, tag = found
        headers = {"etag": tag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(body, headers=headers, media_type=_TYPES[Path(name).suffix])

    async def _openapi(self, _: Request) -> Response:
        return JSONResponse(openapi())

    async def _runs(self, _: Request) -> Response:
        return JSONResponse({"runs": await asyncio.to_thread(self._catalogue.list)})

    async def _queue(self, _: Request) -> Response:
        return JSONResponse(await asyncio.to_thread(self._catalogue.queue))

    async def _me(self, request: Request) -> Response:
        visitor = visitor_of(request)
        may_cancel = visitor is not None and visitor.role is Role.OPERATOR and self._line is not None
        me: dict[str, Json] = {"name": "", "role": Role.OBSERVER.value} if visitor is None else _named(visitor)
        return JSONResponse({**me, "may_cancel": may_cancel, "may_leave": bool(session_of(request))})

    async def _enter(self, request: Request) -> Response:
        door = self._opened()
        link = (await _said(request, "link"))["link"]
        visitor, session = await asyncio.to_thread(door.enter, link if isinstance(link, str) else "")
        try:
            await asyncio.to_thread(self._note_link, visitor, visitor.role, used=True)
        except PlaitError:
            door.leave(session)
            raise
        return with_session(JSONResponse(_named(visitor)), session)

    async def _leave(self, request: Request) -> Response:
        self._opened().leave(session_of(request))
        return with_session(JSONResponse({}), "")

    async def _make_link(self, request: Request) -> Response:
        visitor, said = _known(request), await _said(request, "role", "minutes")
        role, minutes = Role.named(str(said["role"])), said["minutes"]
        if role is None or isinstance(minutes, bool) or not isinstance(minutes, int | float) or abs(minutes) > 1e9:
            raise ConfigError("role and minutes are not ones, expected for example observer and 5")
        door, seconds = self._opened(), 60 * minutes
        record = partial(self._note_link, visitor, role, used=False)
        link = await asyncio.to_thread(door.make_link, visitor, role=role, seconds=seconds, record=record)
        return JSONResponse({"link": link, "role": role.value})

    async def _cancel(self, request: Request) -> Response:
        visitor, run = _known(request), request.path_params["run"]
        await _said(request)
        if self._line is None:
            return await _not_there(request, None)
        return JSONResponse({"run": run, "was": await asyncio.to_thread(self._line.cancel, visitor.name, run)})

    def _note_link(self, maker: Visitor, role: Role, *, used: bool) -> None:
        if self._line is not None:
            self._line.note_link(maker.name, role.value, used=used)

    def _opened(self) -> Door:
        if self._door is None:
            raise MachineError("this page has no door, expected one")
        return self._door

    def _ended_for(self, visitor: Visitor | None) -> bool:
        """Whether nothing more is to be shown to a visitor."""
        try:
            return self._ended or (visitor is not None and not self._opened().may_stay(visitor))
        except PlaitError:
            return True

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
        visitor = visitor_of(request)
        whose = "" if visitor is None else visitor.name
        too_many = MOST_WATCHERS if self._streams.total() >= MOST_WATCHERS else 0
        if whose and self._streams[whose] >= MOST_OF_ONE:
            too_many = MOST_OF_ONE
        if too_many:
            body = {"error": f"{too_many} pages are open already, expected fewer"}
            return JSONResponse(body, status_code=503, headers={"retry-after": "10"})
        said = request.headers.get("last-event-id") or request.query_params.get("after", "")
        after = int(said) if said.isascii() and said.isdigit() and len(said) < 16 else -1
        stream = messages(
            feed,
            self._changed,
            after=after,
            run=request.query_params.get("run", ""),
            ended=lambda: self._ended_for(visitor),
            live=lambda: (0, b"") if self._live is None else self._live.of(request.path_params["run"]),
        )
        return StreamingResponse(self._watched(feed, whose, stream), media_type="text/event-stream")

    async def _watched(self, feed: Feed, whose: str, stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        self._watchers[feed] = self._watchers.get(feed, 0) + 1
        self._streams[whose] += 1
        try:
            async for message in stream:
                yield message
        finally:
            self._streams -= Counter([whose])
            self._watchers[feed] -= 1
            if not self._watchers[feed]:
                del self._watchers[feed]

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
        # Whoever comes back may have more of it than a server that has just started.
        await self._read(feed)
        return feed


def _assets() -> dict[str, tuple[bytes, str]]:
    """The page's own files and their tags, by name; all of them are in memory, so no request names a path."""
    folder = files("plait.page") / "assets"
    found = [file for file in folder.iterdir() if Path(file.name).suffix in _TYPES]
    bodies = {file.name: file.read_bytes() for file in found}
    return {name: (body, f'"{hashlib.sha256(body).hexdigest()[:16]}"') for name, body in bodies.items()}


def _named(visitor: Visitor) -> dict[str, Json]:
    return {"name": visitor.name, "role": visitor.role.value}


def _known(request: Request) -> Visitor:
    visitor = visitor_of(request)
    if visitor is None:
        raise TurnedAwayError("it is not known who asks", is_known=False)
    return visitor


async def _said(request: Request, *names: str) -> dict[str, Json]:
    """The body of a request: a small object with these keys and no others."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_QUESTION_BYTES:
            raise ConfigError(f"request has more than {_MOST_QUESTION_BYTES} bytes, expected less")
    try:
        said: object = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ConfigError("request is not JSON, expected an object") from error
    if not isinstance(said, dict) or set(cast("dict[str, Json]", said)) != set(names):
        raise ConfigError(f"request is not an object with {', '.join(names) or 'no key'}, expected that")
    return cast("dict[str, Json]", said)


async def _not_there(_: Request, error: Exception | None) -> Response:
    del error
    return JSONResponse({"error": "there is nothing under this address"}, status_code=404)


async def _turned_away(_: Request, error: Exception) -> Response:
    is_known = isinstance(error, TurnedAwayError) and error.is_known
    return JSONResponse({"error": str(error)}, status_code=403 if is_known else 401)


async def _too_many(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, status_code=429)


async def _refused(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, status_code=400)


async def _failed(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, status_code=500)

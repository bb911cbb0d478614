"""Finds out who a request to the page is from, and refuses what that visitor may not do before it is read.

On the page of this machine alone there is no door: everybody may look, and nothing can be asked for.
"""

from __future__ import annotations

import asyncio
from dataclasses import KW_ONLY, dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from plait.errors import PlaitError
from plait.page.door import SESSION_S, Door, TurnedAwayError, check_act
from plait.page.passes import Visitor

CERTIFICATE = "plait.certificate"
"""Key of a request's scope: what its connection's certificate states."""
VISITOR = "plait.visitor"

_COOKIE = "__Host-plait"
_ENTER = "/api/enter"
_OPEN = ("/enter", "/assets/")


@dataclass(frozen=True)
class Keeper:
    """The middleware.

    Attributes:
        app: gets what may pass.
        door: None on the page of this machine alone.
    """

    app: ASGIApp
    _: KW_ONLY
    door: Door | None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope[VISITOR] = None
        refused = None if self.door is None else await asyncio.to_thread(self._enter, self.door, scope)
        await (refused or self.app)(scope, receive, send)

    def _enter(self, door: Door, scope: Scope) -> Response | None:
        """Find the visitor; the answer if it may not pass."""
        path, asks = scope["path"], scope["method"] == "POST"
        try:
            scope[VISITOR] = visitor = door.visitor(scope.get(CERTIFICATE), session_of(Request(scope)))
            if asks and path != _ENTER:
                check_act(visitor, path)
        except TurnedAwayError as error:
            if path == _ENTER or (not asks and path.startswith(_OPEN)):
                return None
            if path == "/" and not asks and not error.is_known:
                scope["path"] = "/enter"
                return None
            return JSONResponse({"error": str(error)}, status_code=403 if error.is_known else 401)
        except PlaitError:
            return JSONResponse({"error": "server cannot read its register"}, status_code=503)
        return None


def visitor_of(request: Request) -> Visitor | None:
    """Who a request is from; None where there is no door, or nobody has come through it."""
    return request.scope[VISITOR]


def session_of(request: Request) -> str:
    """The session that a request states; empty for none."""
    return request.cookies.get(_COOKIE, "")


def with_session(response: Response, session: str) -> Response:
    """An answer that gives the browser a session, or takes it back if that is empty.

    A cookie of this name is taken only over TLS and for this host alone. No script can read it, and no other site's
    page can have it sent.
    """
    response.set_cookie(
        _COOKIE,
        session,
        max_age=int(SESSION_S) if session else 0,
        path="/",
        secure=True,
        httponly=True,
        samesite="strict",
    )
    return response

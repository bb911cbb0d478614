"""The page's token, like Jupyter's: with it you may look.

It is in the address that plait prints. The page's first answer turns it into a cookie, so that scripts, pictures and
streams come with it. Knows nothing of runs.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import cast

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from plait.errors import ConfigError

TOKEN_VARIABLE = "PLAIT_PAGE_TOKEN"  # noqa: S105 (the name of an environment variable)
KNOWN = "plait.known"
"""Key of a request's scope: called once a connection has shown the token."""

_TOKEN_BYTES = 32
_TOKEN = re.compile(r"[A-Za-z0-9_-]{32,128}")
_PORT = re.compile(r":([0-9]{1,5})$")
_REFUSED = "open the address that plait printed when it started, with its token"


def page_token() -> str:
    """The token of the environment variable `TOKEN_VARIABLE`; without one a new token of 256 random bits.

    Raises:
        ConfigError: the variable holds something that is too easily guessed or does not fit into an address.
    """
    given = os.environ.get(TOKEN_VARIABLE, "")
    if given and not _TOKEN.fullmatch(given):
        raise ConfigError(f"{TOKEN_VARIABLE} is not a token, expected 32 to 128 letters, digits, '-' and '_'")
    return given or secrets.token_urlsafe(_TOKEN_BYTES)


@dataclass(frozen=True)
class TokenCheck:
    """The middleware: answers only requests with the token, in their address or their cookie."""

    app: ASGIApp
    _: KW_ONLY
    token: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        is_in_address = self._is_token(request.query_params.get("token", ""))
        if not is_in_address and not self._is_token(request.cookies.get(_cookie_of(request), "")):
            wrong = JSONResponse({"error": _REFUSED}, status_code=401)
            if scope["path"] == "/":
                wrong = PlainTextResponse(f"To see this page, {_REFUSED}.\n", status_code=401)
            await wrong(scope, receive, send)
            return
        if KNOWN in scope:
            cast("Callable[[], None]", scope[KNOWN])()

        async def with_cookie(message: Message) -> None:
            # Of this host alone, out of scripts' reach, and never sent along with what another site's page asks for.
            if message["type"] == "http.response.start":
                cookie = f"{_cookie_of(request)}={self.token}; Path=/; HttpOnly; SameSite=Strict"
                MutableHeaders(scope=message).append("set-cookie", cookie)
            await send(message)

        await self.app(scope, receive, with_cookie if is_in_address and scope["path"] == "/" else send)

    def _is_token(self, said: str) -> bool:
        return secrets.compare_digest(said.encode(errors="replace"), self.token.encode())


def _cookie_of(request: Request) -> str:
    """The cookie's name: browsers share cookies between the ports of a host, where other pages may be served."""
    port = _PORT.search(request.headers.get("host", ""))
    return f"plait-{port[1] if port else 80}"

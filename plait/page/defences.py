"""What keeps strangers and other sites' pages from the page: names, headers, and a token like Jupyter's.

Only loopback's names are the page's, so that a foreign name for this machine (DNS rebinding) is refused. The token is
in the address that plait prints; the page's first answer turns it into a cookie. Knows nothing of runs.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import cast
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from plait.system.address import is_own_host

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
_LOOKS = ("GET", "HEAD")


KNOWN = "plait.known"
"""Key of a request's scope: called once a connection has shown the token."""

_PORT = re.compile(r":([0-9]{1,5})$")
_REFUSED = "open the address that plait printed when it started, with its token"


class Headers:
    """Adds the headers, and refuses what comes from a foreign name or page."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                if "cache-control" not in headers:
                    headers["cache-control"] = "no-store"
            await send(message)

        status, wrong = self._what_is_wrong(scope)
        app = JSONResponse({"error": wrong}, status_code=status) if wrong else self._app
        await app(scope, receive, with_headers)

    def _what_is_wrong(self, scope: Scope) -> tuple[int, str]:
        hosts, origins, sites, modes = (
            [value.decode("latin-1") for name, value in scope["headers"] if name == wanted]
            for wanted in (b"host", b"origin", b"sec-fetch-site", b"sec-fetch-mode")
        )
        host = hosts[0] if len(hosts) == 1 else ""
        if not is_own_host(host):
            return 403, f"host is {host[:80]!a}, expected localhost or 127.0.0.1"
        if any(_authority(origin) != host.lower() for origin in origins):
            return 403, "the request comes from a page of another origin"
        # A link to the page may be followed from anywhere; what it shows is asked for by the page itself.
        if any(site not in ("same-origin", "none") for site in sites) and modes != ["navigate"]:
            return 403, "the request comes from another site"
        return (0, "") if scope["method"] in _LOOKS else (405, "this server is read-only: use GET")


def _authority(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


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

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(errors="replace"), self.token.encode())


def _cookie_of(request: Request) -> str:
    """The cookie's name: browsers share cookies between the ports of a host, where other pages may be served."""
    port = _PORT.search(request.headers.get("host", ""))
    return f"plait-{port[1] if port else 80}"

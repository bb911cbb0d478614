"""What every answer of the page says to the browser, and which requests are refused unread.

The page loads nothing from elsewhere and no other site can frame it, read it or send to it. A foreign name that
resolves to this machine (DNS rebinding) is refused: only loopback's names are the page's. Knows nothing of runs.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from plait.address import AllowedHosts

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
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


class Headers:
    """Adds the headers, and refuses what comes from a foreign name or page."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._hosts = AllowedHosts()

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
        if not self._hosts.has(host):
            return 403, f"host is {host[:80]!a}, expected localhost or 127.0.0.1"
        if any(_authority(origin) != host.lower() for origin in origins):
            return 403, "the request comes from a page of another origin"
        # A link to the page may be followed from anywhere; what it shows is asked for by the page itself.
        if any(site not in ("same-origin", "none") for site in sites) and modes != ["navigate"]:
            return 403, "the request comes from another site"
        return (0, "") if scope["method"] in _LOOKS else (405, "this server is read-only: expected GET")


def _authority(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""

"""Visitors of the live page who do not know its token, or whose browser is led to it by another site's page; and those
who open connections and do not finish what they say.
"""

from __future__ import annotations

import secrets
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from plait.page.app import Page
from plait.page.server import serve

_PATHS = ("/", "/assets/page.js", "/api/runs", "/api/runs/first", "/none")
_OTHERS = ("127.0.0.2", "127.0.0.3", "127.0.0.4")


@contextmanager
def _page(home: Path, token: str) -> Generator[str]:
    """A page in this process, where a defence can be taken out; its address."""
    page = Page([home / "first"], token=token)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(page, listener), daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def strangers(home: Path, count: int) -> tuple[int, int]:
    """How many requests without the token, or from other sites' pages, were tried, and how many were answered."""
    token, answered = secrets.token_urlsafe(32), 0
    with _page(home, token) as place, httpx.Client(base_url=f"http://{place}", timeout=120) as visitor:
        port = place.rpartition(":")[2]

        def kept(said: str, at: str = port) -> dict[str, str]:
            return {"cookie": f"plait-{at}={said}"}

        guesses = ("", "x" * 43, token[:-1], f"{token}x", token.swapcase(), secrets.token_urlsafe(32))
        ways: list[tuple[str, dict[str, str], dict[str, str]]] = [("GET", {}, {})]
        ways += [("GET", {"token": guess}, {}) for guess in guesses]
        ways += [("GET", {}, kept(guess)) for guess in guesses]
        ways += [("GET", {}, kept(token, "1")), ("GET", {}, {"authorization": f"Bearer {token}"})]
        # With what a browser sends along by itself, but led there by somebody else's page or name.
        led = (
            {"host": "evil.example"},
            {"host": f"evil.example:{port}"},
            {"host": f"127.0.0.1.evil.example:{port}"},
            {"origin": "http://evil.example"},
            {"origin": "null"},
            {"origin": "http://127.0.0.1:1"},
            {"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"},
            {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"},
        )
        ways += [("GET", query, {**kept(token), **headers}) for headers in led for query in ({}, {"token": token})]
        ways += [(method, {}, kept(token)) for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS")]
        for number in range(count):
            method, query, headers = ways[number % len(ways)]
            path = _PATHS[number // len(ways) % len(_PATHS)]
            with visitor.stream(method, path, params=query, headers=headers) as answer:
                answered += answer.status_code not in (401, 403, 405)
            visitor.cookies.clear()
        # With the token it still can.
        assert visitor.get("/", params={"token": token}).status_code == httpx.codes.OK
        assert visitor.get("/api/runs").status_code == httpx.codes.OK
    return count, answered


def pressed(home: Path, connections: int) -> tuple[int, int]:
    """How often somebody looked while others opened so many connections, and how often in vain.

    Args:
        home: for the page's runs.
        connections: opened one after the other, each with a request that does not end; those that the page ends are let
            go.
    """
    token = secrets.token_urlsafe(32)
    looks, vain, held = 0, 0, list[socket.socket]()
    with _page(home, token) as place:
        host, _, port = place.partition(":")
        head = f"POST /api/runs HTTP/1.1\r\nHost: {place}\r\n"
        unfinished = (b"", head.encode(), f"{head}Content-Length: 99\r\n\r\n{{".encode())
        for number in range(1, connections + 1):
            source = (_OTHERS[number % len(_OTHERS)], 0)
            held.append(socket.create_connection((host, int(port)), 180, source_address=source))
            with suppress(OSError):
                held[-1].sendall(unfinished[number // len(_OTHERS) % len(unfinished)])
            if number % 50:
                continue
            held = [one for one in held if not _is_ended(one)]
            looks += 1
            try:
                answer = httpx.get(f"http://{place}/api/runs", params={"token": token}, timeout=180)
                vain += answer.status_code != httpx.codes.OK
            except httpx.TransportError:
                vain += 1
        for one in held:
            one.close()
    return looks, vain


def _is_ended(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        while connection.recv(4096):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    connection.close()
    return True

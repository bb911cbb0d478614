"""Visitors of the page who try what their role does not allow, over TLS, with every kind of certificate and session;
and one who opens connections and says nothing.
"""

from __future__ import annotations

import json
import secrets
import socket
import ssl
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing import Pipe
from pathlib import Path

import httpx

from plait.hosts import AllowedHosts
from plait.page.app import Page
from plait.page.catalogue import Catalogue
from plait.page.door import Door
from plait.page.line import Line, answering
from plait.page.server import serve
from plait.page.tls import tls_of
from plait.queue import RunQueue
from plait.trust import Register, provision, revoke

_PATH = "/api/queue/run/cancel"


class _Desk:
    """Takes whatever reaches it, and counts."""

    def __init__(self) -> None:
        self.cancelled = 0

    def status_json(self) -> str:
        return "{}"

    def cancel(self, by: str, run: str) -> str:
        self.cancelled += 1
        return "running"

    def note_link(self, by: str, role: str, *, used: bool) -> None:
        pass


@contextmanager
def _page(home: Path, desk: _Desk) -> Generator[str]:
    """A page in this process, where a defence can be taken out; its address."""
    RunQueue(home / "federation").close()
    here, there = Pipe()
    answering(here, desk)
    catalogue = Catalogue([home / "federation"], expected=home / "federation", folder=True)
    door = Door(Register.load(home / "server"))
    page = Page(catalogue, AllowedHosts.of("localhost"), door=door, line=Line(there))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        options = {"tls": tls_of(home / "server")}
        threading.Thread(target=serve, args=(page, listener), kwargs=options, daemon=True).start()
        yield f"https://localhost:{listener.getsockname()[1]}"
        page.end()


def beyond_roles(home: Path, count: int) -> tuple[int, int]:
    """How many acts that their role does not allow visitors tried, and how many were accepted."""
    now = datetime.now(UTC)
    provision(home, ["ada"], ["localhost"], operators=["olga", "otto"], observers=["ivo"], now=now)
    revoke(home, "otto", now=now)
    provision(home / "elsewhere", [], ["localhost"], operators=["olga"], now=now)
    desk, accepted = _Desk(), 0
    with _page(home, desk) as address:
        own = {"origin": address, "content-type": "application/json"}

        def visitor(who: str = "", cookie: str = "") -> httpx.Client:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(home / "server" / "ca.crt")
            if who:
                (certificate,) = (path for path in (home / who).glob("*.crt") if path.name != "ca.crt")
                context.load_cert_chain(certificate, certificate.with_suffix(".key"))
            cookies = {"__Host-plait": cookie} if cookie else None
            return httpx.Client(base_url=address, verify=context, timeout=120, cookies=cookies)

        def asks(path: str, said: object = None, **headers: str) -> Callable[[httpx.Client], httpx.Response]:
            return lambda client: client.post(path, headers={**own, **headers}, content=json.dumps(said or {}))

        def looks(path: str) -> Callable[[httpx.Client], httpx.Response]:
            return lambda client: client.get(path)

        def link(role: str) -> dict[str, object]:
            return {"role": role, "minutes": 5}

        cancel, looking = asks(_PATH), [looks("/api/runs"), looks("/api/queue"), looks("/api/me")]
        everything = [*looking, cancel, asks("/api/links", link("observer")), asks("/api/links", link("operator"))]
        foreign = [asks(_PATH, origin=origin) for origin in ("https://evil.example", "null", address[:-1])]
        foreign += [asks(_PATH, **{"sec-fetch-site": "cross-site"}), asks(_PATH, **{"content-type": "text/plain"})]
        with visitor("operators/olga") as olga:
            token = asks("/api/links", link("observer"))(olga).json()["link"]
        with visitor() as guest:
            looker = asks("/api/enter", {"link": token})(guest).cookies["__Host-plait"]
        beyond = [
            (visitor(), [*everything, asks("/api/enter", {"link": token}), asks("/api/enter", {"link": "x" * 43})]),
            (visitor(cookie=secrets.token_urlsafe(32)), everything),
            (visitor("clients/ada"), everything),
            (visitor("server"), everything),
            (visitor("operators/otto"), everything),
            (visitor("elsewhere/operators/olga"), everything),
            (visitor("observers/ivo"), [cancel, asks("/api/links", link("operator")), *foreign]),
            (visitor(cookie=looker), [cancel, *everything[-2:], *foreign]),
            (visitor("operators/olga"), foreign),
        ]
        for number in range(count):
            client, acts = beyond[number % len(beyond)]
            try:
                answer = acts[number // len(beyond) % len(acts)](client)
                accepted += answer.status_code not in (401, 403, 415)
            except httpx.TransportError:
                pass  # no TLS, so nothing was asked
        tried = desk.cancelled
        for client, _ in beyond:
            client.close()
        # Who may, still can.
        with visitor("operators/olga") as olga, visitor("observers/ivo") as ivo:
            assert cancel(olga).json()["was"] == "running"
            assert all(look(ivo).status_code == 200 for look in looking)
    return count, max(accepted, tried)


def pressed(home: Path, connections: int) -> tuple[int, int]:
    """How often an operator looked while another address opened so many connections, and how often in vain.

    Args:
        home: where `beyond_roles` has made the kits.
        connections: opened one after the other; those that the page ends are let go.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(home / "server" / "ca.crt")
    kit = home / "operators" / "olga"
    context.load_cert_chain(kit / "operator.crt", kit / "operator.key")
    looks, vain, held = 0, 0, list[socket.socket]()
    with _page(home, _Desk()) as address:
        place = ("127.0.0.1", int(address.rpartition(":")[2]))
        for number in range(1, connections + 1):
            held.append(socket.create_connection(place, 10, source_address=("127.0.0.2", 0)))
            if number % 50:
                continue
            held = [one for one in held if not _is_ended(one)]
            looks += 1
            try:
                with httpx.Client(base_url=address, verify=context, timeout=10) as olga:
                    vain += olga.get("/api/runs").status_code != httpx.codes.OK
            except httpx.TransportError:
                vain += 1
        for one in held:
            one.close()
    return looks, vain


def _is_ended(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        connection.recv(1)
    except BlockingIOError:
        return False
    except OSError:
        pass
    connection.close()
    return True

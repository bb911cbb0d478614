"""Somebody at the page of `plait report --live` in the process that serves it, and then ends it as Ctrl-C does."""

from __future__ import annotations

import http.client
import os
import signal
import threading
from collections.abc import Callable
from urllib.parse import urlsplit

PATIENCE_S = 180.0
visitors: set[int] = set()
"""Threads whose connections are the visitor's own."""


def visit_page(run: str, note: Callable[[str], None]) -> None:
    """Look at every part of the page once it is served.

    Args:
        run: name of one that it shows.
        note: told what is not shown.
    """
    beside = __import__("plait.page.beside", fromlist=["shown_address"])
    shown = beside.shown_address

    def look(address: str) -> None:
        visitors.add(threading.get_ident())
        place = urlsplit(address)
        try:
            for path in ("/", "/api/runs", f"/api/runs/{run}"):
                connection = http.client.HTTPConnection(place.netloc, timeout=PATIENCE_S)
                connection.request("GET", f"{path}?{place.query}")
                status = connection.getresponse().status
                if status != http.client.OK:
                    note(f"answer {status} to {path}")
        except OSError as error:
            note(f"no answer: {error}")
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    def and_look(*given: object) -> str:
        address = shown(*given)
        threading.Thread(target=look, args=(address,), daemon=True).start()
        return address

    beside.shown_address = and_look

"""What no ledger has: which clients are connected now and what each is doing, as the server beside the page sees it.

Page and server are joined by a pair of sockets that only their two processes have: the page asks for the status, at
most once a second, however many look, and only while someone does. Knows no HTTP.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import cast

from plait.adapters import Json
from plait.json_text import read_json

_QUESTION = b"status"
_MOST_ANSWER_BYTES = 64 << 20
_PATIENCE_S = 5.0
_EVERY_S = 1.0


class Live:
    """The page's end; thread-safe."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._asked = float("-inf")
        self._is_asked = False
        self._status: Mapping[str, Json] = {}

    def of(self, run: str) -> dict[str, Json]:
        """The clients of a run by name; none of a run that is not served now, or if the server does not answer."""
        with self._lock:
            try:
                if not self._is_asked and time.monotonic() - self._asked >= _EVERY_S:
                    self._connection.send_bytes(_QUESTION)
                    self._is_asked, self._asked = True, time.monotonic()
                if self._is_asked:
                    answers = self._connection.poll(_PATIENCE_S)  # one that comes late is taken by the next call
                    said = read_json(self._connection.recv_bytes(_MOST_ANSWER_BYTES)) if answers else None
                    self._is_asked = not answers
                    self._status = cast("dict[str, Json]", said) if isinstance(said, dict) else {}
            except (OSError, EOFError, ValueError):
                self._status = {}
            return doing_now(self._status) if self._status.get("run") == run else {}


def doing_now(status: Mapping[str, Json]) -> dict[str, Json]:
    """What each client is doing: ``state`` where the ledger cannot know it, ``doing`` in its own words."""
    clients: dict[str, Json] = {}
    for node in _objects(status.get("nodes")):
        now: dict[str, Json] = {"doing": node.get("doing", "")}
        if node.get("is_uploading"):
            now["state"] = "uploading"
        clients[str(node.get("name"))] = now
    for node in _objects(status.get("nodes_away")):
        clients[str(node.get("name"))] = {"state": "away"}
    return clients


def answer(connection: Connection, status_json: Callable[[], str]) -> None:
    """Answer the page in a thread of its own, until the page's end is closed."""

    def answer_all() -> None:
        with connection, suppress(OSError, EOFError):
            while True:
                connection.recv_bytes(len(_QUESTION))
                connection.send_bytes(status_json().encode())

    threading.Thread(target=answer_all, name="plait-page", daemon=True).start()


def _objects(value: Json) -> list[dict[str, Json]]:
    return [cast("dict[str, Json]", one) for one in value if isinstance(one, dict)] if isinstance(value, list) else []

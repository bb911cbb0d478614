"""What the page knows of a run, read once for all who look: its ledger, and what the server beside it sees.

No ledger has which clients are connected now and what each is doing. Page and server are joined by a pair of sockets
that only their two processes have: the page asks for the status, at most once a second, and only while someone looks.
Knows no HTTP.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import cast

from plait.adapters import Json
from plait.errors import PeerError
from plait.ledger.ledger import Follower
from plait.page.board import Board
from plait.rounds.run_directory import RunDirectory
from plait.system.json_text import read_json

_READ_BYTES = 1 << 20
_QUESTION = b"status"
_MOST_ANSWER_BYTES = 64 << 20
_PATIENCE_S = 5.0
_EVERY_S = 1.0


class Feed:
    """One run, read on demand, from a directory that need not hold one yet; thread-safe."""

    def __init__(self, directory: Path) -> None:
        self._ledger = RunDirectory(directory).ledger
        self._lock = threading.Lock()
        self._file: tuple[int, int] | None = None
        self._begin()

    def _begin(self) -> None:
        self._follower = Follower(self._ledger, check=True)
        self._board = Board()
        self._document = b'{"seq":-1}'
        self._is_unreadable = False
        # Size at which there was no whole line more: half a line, however long, is read once.
        self._half_bytes = -1

    def document(self) -> bytes:
        """The run as of now, as JSON on one line without a character outside ASCII."""
        with self._lock:
            has_changed = False
            while self._read():
                has_changed = True
            if has_changed:
                self._document = json.dumps(self._board.document, separators=(",", ":"), allow_nan=False).encode()
            return self._document

    def _read(self) -> bool:
        """Read what was appended, at most about a megabyte; whether anything was new."""
        try:
            now = self._ledger.stat()
        except OSError:
            return False
        if (now.st_dev, now.st_ino) != self._file or now.st_size < self._follower.read_bytes:
            # Another run has taken its place.
            self._file = (now.st_dev, now.st_ino)
            self._begin()
        if self._is_unreadable or now.st_size in (self._follower.read_bytes, self._half_bytes):
            return False
        try:
            new = self._follower.new_events(_READ_BYTES)
            self._half_bytes = -1 if new else now.st_size
            for event in new:
                self._board.take(event, broken=self._follower.broken)
            return bool(new)
        except PeerError as error:
            why = str(error)
        except Exception as error:
            # A fault in showing one run must not freeze the other.
            logging.getLogger("plait.page").exception("cannot show '%s'", self._ledger)
            why = f"'{self._ledger}' cannot be shown: {type(error).__name__}"
        self._is_unreadable = True
        self._board.end(broken=why)
        return True


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

"""Follows one run's ledger for all who look: however many, it is read once. Knows no HTTP."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

from plait.errors import PeerError
from plait.features.page.board import Board
from plait.rounds.ledger import Follower
from plait.rounds.run_directory import RunDirectory

_READ_BYTES = 1 << 20


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
            logging.getLogger("plait.features.page").exception("cannot show '%s'", self._ledger)
            why = f"'{self._ledger}' cannot be shown: {type(error).__name__}"
        self._is_unreadable = True
        self._board.end(broken=why)
        return True

"""Follows one run's ledger for all watchers: its board, and the newest patches for those that come back.

However many watch, the ledger is read once. Patches are kept for a while for slow watchers; one that missed more gets
the whole document. Knows no HTTP.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from pathlib import Path

from plait.adapters import Json
from plait.errors import PeerError
from plait.features.page.board import Board
from plait.features.page.merge import Patch
from plait.rounds.ledger import Follower
from plait.rounds.run_directory import RunDirectory

KEPT_PATCHES = 4096
_READ_BYTES = 1 << 20


class Feed:
    """One run, read on demand; thread-safe.

    Args:
        directory: of the run; need not hold one yet.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._ledger = RunDirectory(directory).ledger
        self._lock = threading.Lock()
        self._file: tuple[int, int] | None = None
        self._begin()

    def _begin(self) -> None:
        self._follower = Follower(self._ledger, check=True)
        self._board = Board()
        self._patches: deque[Patch] = deque(maxlen=KEPT_PATCHES)
        self._encoded: tuple[int, bytes] | None = None
        self._later: tuple[tuple[int, int], bytes] | None = None
        self._unreadable = ""
        # Size at which there was no whole line more: half a line, however long, is read once.
        self._half_bytes = -1

    def read(self) -> tuple[bool, bool]:
        """Read what was appended, at most about a megabyte.

        Returns:
            Whether the document changed, and whether there is more to read at once.
        """
        with self._lock:
            try:
                now = self._ledger.stat()
            except OSError:
                return False, False
            if (now.st_dev, now.st_ino) != self._file or now.st_size < self._follower.read_bytes:
                # Another run has taken its place.
                self._file = (now.st_dev, now.st_ino)
                self._begin()
            if self._unreadable or now.st_size in (self._follower.read_bytes, self._half_bytes):
                return False, False
            try:
                new = self._follower.new_events(_READ_BYTES)
                self._half_bytes = -1 if new else now.st_size
                for event in new:
                    self._patches.append(self._board.take(event, broken=self._follower.broken))
            except PeerError as error:
                return self._end(str(error))
            except Exception as error:
                # A fault in showing one run must not freeze the others.
                logging.getLogger("plait.features.page").exception("cannot show '%s'", self._ledger)
                return self._end(f"'{self._ledger}' cannot be shown: {type(error).__name__}")
            return bool(new), bool(new) and now.st_size > self._follower.read_bytes

    def _end(self, why: str) -> tuple[bool, bool]:
        """Nothing more of this ledger is read."""
        self._unreadable = why
        self._patches.append(self._board.end(broken=why))
        return True, False

    @property
    def seq(self) -> int:
        """The newest event; -1 before the first."""
        return number_of(self._board.document)

    @property
    def run(self) -> str:
        """The id of the run; empty before it has begun."""
        run = self._board.document.get("run", "")
        return run if isinstance(run, str) else ""

    def document(self) -> tuple[int, bytes]:
        """The newest event, and the document as JSON."""
        with self._lock:
            seq = self.seq
            if self._encoded is None or self._encoded[0] != seq:
                self._encoded = seq, encode(self._board.document)
            return self._encoded

    def patches_after(self, seq: int, run: str) -> tuple[int, bytes] | None:
        """The patches of all later events, as one JSON array.

        Returns:
            The newest event, and the array, empty if there is no later one; None if the watcher needs the whole
            document: too much was missed, or this is another run.
        """
        with self._lock:
            if seq < 0 or run != self.run or seq > self.seq or seq + 1 < number_of(self._patches[0]):
                return None
            if seq == self.seq:
                return seq, b""
            # Those who keep up are all at the same event: the array is made once for all of them.
            if self._later is None or self._later[0] != (seq, self.seq):
                self._later = (seq, self.seq), encode([patch for patch in self._patches if number_of(patch) > seq])
            return self.seq, self._later[1]


def number_of(patch: Patch) -> int:
    """The event that a patch is of."""
    seq = patch["seq"]
    return seq if isinstance(seq, int) else -1


def encode(value: Json | list[Patch]) -> bytes:
    """Compact JSON, on one line, without a character outside ASCII."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()

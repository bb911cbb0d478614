"""Serve the newest round of a run in progress: reload its adapter whenever it is rewritten.

Checks the file's times and number, and reads its content only when they change.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from plait.adapters.peft_directory import WEIGHTS_FILE
from plait.errors import PlaitError
from plait.features.serving.catalogue import Catalogue

_PAUSE_S = 0.5


@dataclass(eq=False)
class Follower:
    """Follows one run.

    Attributes:
        run: the run directory; it may still be empty.
        say: called for every round that is served, and once for every reason that one is not.
    """

    catalogue: Catalogue
    name: str
    run: Path
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        self._seen: tuple[int, int, int] | None = None
        self._said = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follower", daemon=True)

    def look(self) -> bool:
        """Serve the current adapter if it has changed; returns whether it has."""
        mark = self._mark()
        if mark is None or mark == self._seen:
            return False
        try:
            model = self.catalogue.load(self.name, self.run, replace=True)
        except PlaitError as error:
            # It may be in the middle of a replacement, or the next round may fix it.
            if str(error) != self._said:
                self._said = str(error)
                self.say(f"'{self.run}' is not served: {error}")
            return False
        # The state before reading: if the file changed in between, the next look reads it again.
        self._seen, self._said = mark, ""
        self.say(f"serving '{self.name}' as of {model.digest[:16]}")
        return True

    def start(self) -> None:
        """Check repeatedly, in a separate thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop following."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _follow(self) -> None:
        while not self._stop.wait(_PAUSE_S):
            self.look()

    def _mark(self) -> tuple[int, int, int] | None:
        try:
            facts = (self.run / "adapter" / WEIGHTS_FILE).stat()
        except OSError:
            return None
        return facts.st_ino, facts.st_mtime_ns, facts.st_size

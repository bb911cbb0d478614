"""Serve the newest round of a run while the run goes on: read its adapter anew whenever it has been written anew.

Looks at the file's times and number; what it holds is read only when they change.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from plait.adapters.peft_directory import WEIGHTS_FILE
from plait.errors import PlaitError
from plait.serve.catalogue import Catalogue

_PAUSE_S = 0.5


class Follower:
    """Follows one run.

    Args:
        catalogue: where the adapter is served.
        name: what requests call it.
        run: the run directory; it may be empty as yet.
        say: is told of every round that is served, and once of every reason that one is not.
    """

    def __init__(self, catalogue: Catalogue, name: str, run: Path, say: Callable[[str], None]) -> None:
        self._catalogue = catalogue
        self._name = name
        self._run = run
        self._say = say
        self._seen: tuple[int, int, int] | None = None
        self._said = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follower", daemon=True)

    def look(self) -> bool:
        """Serve the adapter that is there now, if it is another one than before; whether it was."""
        mark = self._mark()
        if mark is None or mark == self._seen:
            return False
        try:
            model = self._catalogue.load(self._name, self._run, replace=True)
        except PlaitError as error:
            # It may be just being exchanged; and a run that goes on may mend it.
            if str(error) != self._said:
                self._said = str(error)
                self._say(f"'{self._run}' is not served: {error}")
            return False
        # What was looked at before it was read: if it changed in between, the next look reads it again.
        self._seen, self._said = mark, ""
        self._say(f"serving '{self._name}' as of {model.digest[:16]}")
        return True

    def start(self) -> None:
        """Look again and again, in a thread of its own."""
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _follow(self) -> None:
        while not self._stop.wait(_PAUSE_S):
            self.look()

    def _mark(self) -> tuple[int, int, int] | None:
        try:
            facts = (self._run / "adapter" / WEIGHTS_FILE).stat()
        except OSError:
            return None
        return facts.st_ino, facts.st_mtime_ns, facts.st_size

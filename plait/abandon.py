"""A wish that this process stop the work it is at: voiced by whoever waits for it, heeded by whoever works.

One process works on one thing at a time, so there is one wish. Knows nothing of tasks, networks or models; where nobody
ever voices a wish, a check costs next to nothing.
"""

from __future__ import annotations

import threading

from plait.errors import PlaitError


class Abandoned(PlaitError):  # noqa: N818 (it is no error, it only travels like one)
    """Nobody waits for this work any more."""


class Abandonment:
    """One wish, and how far the work had come at its last check."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._checks = 0

    def begin(self) -> None:
        """Other work begins: forget the wish and count from nothing."""
        self._asked.clear()
        self._checks = 0

    def ask(self) -> None:
        """Wish that the work stop; from any thread."""
        self._asked.set()

    def check(self) -> None:
        """Called by the work between two steps.

        Raises:
            Abandoned: it is to stop.
        """
        self._checks += 1
        if self._asked.is_set():
            raise Abandoned("the work was abandoned")

    @property
    def checks(self) -> int:
        """How many checks the work has come to since it began: its steps."""
        return self._checks


ABANDONMENT = Abandonment()
"""The wish of this process."""


def check_abandoned() -> None:
    """Check the wish of this process.

    Raises:
        Abandoned: the work is to stop.
    """
    ABANDONMENT.check()

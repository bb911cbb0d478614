"""A request that this process stop its current work: made by whoever waits for the work, checked by the work itself.

A process works on one thing at a time, so there is one request. Knows nothing of tasks, networks or models. A check
costs next to nothing if no request is ever made.
"""

from __future__ import annotations

import threading

from plait.errors import PlaitError


class Abandoned(PlaitError):  # noqa: N818 (it is no error, it only travels like one)
    """Nobody waits for this work any more."""


class Abandonment:
    """One request to stop, and the progress of the work at its last check."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._checks = 0

    def begin(self) -> None:
        """Other work begins: clear the request and the count."""
        self._asked.clear()
        self._checks = 0

    def ask(self) -> None:
        """Request that the work stop; from any thread."""
        self._asked.set()

    def check(self) -> None:
        """Called by the work between two steps.

        Raises:
            Abandoned: it should stop.
        """
        self._checks += 1
        if self._asked.is_set():
            raise Abandoned("the work was abandoned")

    @property
    def checks(self) -> int:
        """Number of checks since the work began: its steps."""
        return self._checks


ABANDONMENT = Abandonment()
"""The request of this process."""


def check_abandoned() -> None:
    """Check the request of this process.

    Raises:
        Abandoned: the work should stop.
    """
    ABANDONMENT.check()

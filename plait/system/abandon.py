"""Work that may be told to stop: it calls `check_abandoned` between two steps, and need not know by whom.

What tells a client's work to stop is `client.task`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

from plait.errors import PlaitError


class Abandoned(PlaitError):  # noqa: N818 (it is no error, it only travels like one)
    """The result of this work is no longer needed."""


OBEYED: ContextVar[Callable[[], object] | None] = ContextVar("obeyed", default=None)
"""What the work of this thread calls between two steps; raises `Abandoned` if the work should stop."""


def check_abandoned() -> None:
    """Called by work between two steps; does nothing if it cannot be abandoned.

    Raises:
        Abandoned: the work should stop.
    """
    if step := OBEYED.get():
        step()

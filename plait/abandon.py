"""A request that one piece of work stop: made in any thread, obeyed by the work at its next step or wait.

The code that runs the work in a thread makes it obey an `Abandonment` there; code below calls `check_abandoned` between
two steps and need not know of one. Knows nothing of tasks, networks or models.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

from plait.errors import PlaitError

if TYPE_CHECKING:
    from plait.abandonment import Abandonment


class Abandoned(PlaitError):  # noqa: N818 (it is no error, it only travels like one)
    """The result of this work is no longer needed."""


OBEYED: ContextVar[Abandonment | None] = ContextVar("obeyed", default=None)
"""What the work of this thread checks."""


def check_waiting() -> None:
    """As `check_abandoned`, of work that waits and does no step.

    Raises:
        Abandoned: the work should stop.
    """
    abandonment = OBEYED.get()
    if abandonment is not None:
        abandonment.check()


def check_abandoned() -> None:
    """Called by work between two steps; does nothing if it cannot be abandoned.

    Raises:
        Abandoned: the work should stop.
    """
    abandonment = OBEYED.get()
    if abandonment is not None:
        abandonment.step()

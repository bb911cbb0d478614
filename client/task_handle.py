"""A task at this node: it can be given up from any thread, and the server can offer it again."""

from __future__ import annotations

import threading

from client.task import Task
from plait.abandon import Abandonment


class TaskHandle:
    """Work on one task, or the sending of its answer.

    Attributes:
        abandonment: stops the work once it is no longer needed.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.abandonment = Abandonment()
        self._offers = 1
        self._lock = threading.Lock()

    @property
    def offers(self) -> int:
        """How often the server has sent the task."""
        return self._offers

    def offered_again(self) -> bool:
        """The server sent the task again; False if it was given up before and must be restarted."""
        with self._lock:
            self._offers += not self.abandonment.is_asked
            return not self.abandonment.is_asked

    def give_up(self, reason: str, *, unless_offered_since: int | None = None) -> bool:
        """Make the work end soon.

        Args:
            unless_offered_since: the number of offers when the server said that it does not wait; with more offers
                since, it does wait.

        Returns:
            False if it was offered since.
        """
        with self._lock:
            if unless_offered_since not in (None, self._offers):
                return False
            self.abandonment.ask(reason)
            return True

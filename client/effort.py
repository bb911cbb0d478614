"""The effort put into one task: it can be called off from any thread, also while it waits for the network."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator

from client.task import Task
from plait.abandon import Abandoned


class Effort:
    """Work on one task, or the sending of its answer.

    Args:
        task: what it is for.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.reason = ""
        self.offers = 1
        self._called_off = threading.Event()
        self._lock = threading.Lock()
        self._cancel: Callable[[], object] | None = None

    @property
    def called_off(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._called_off.is_set()

    def offered_again(self) -> bool:
        """The server sent the task once more; False if it was called off before, and has to be begun anew."""
        with self._lock:
            self.offers += not self._called_off.is_set()
            return not self._called_off.is_set()

    def call_off(self, reason: str, *, unless_offered_since: int | None = None) -> None:
        """Make the effort end soon.

        Args:
            reason: a few words for the operator.
            unless_offered_since: the number of offers after which the server said that it does not wait; where there
                are more by now, it does wait.
        """
        with self._lock:
            if self._called_off.is_set() or unless_offered_since not in (None, self.offers):
                return
            self.reason = reason
            self._called_off.set()
            cancel = self._cancel
        if cancel is not None:
            cancel()

    def check(self) -> None:
        """Go on only if somebody still waits.

        Raises:
            Abandoned: it was called off.
        """
        if self._called_off.is_set():
            raise Abandoned(self.reason)

    def pause(self, seconds: float) -> None:
        """Wait.

        Raises:
            Abandoned: it was called off.
        """
        self._called_off.wait(seconds)
        self.check()

    @contextlib.contextmanager
    def cancelling(self, cancel: Callable[[], object]) -> Generator[None]:
        """Have `cancel` called if the effort is called off while the block runs.

        Raises:
            Abandoned: it was called off before.
        """
        with self._lock:
            self._cancel = cancel
        if self.called_off:
            cancel()
        self.check()
        try:
            yield
        finally:
            with self._lock:
                self._cancel = None

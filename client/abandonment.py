"""A request that one piece of work stop: made in any thread, obeyed by the work at its next step or wait.

Knows nothing of tasks, networks or models.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator

from plait.system.abandon import OBEYED, Abandoned


class Abandonment:
    """Whether one piece of work should stop, why, and how many steps it has done. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = threading.Event()
        self._cancel: Callable[[], object] | None = None
        self._reason = ""
        self._steps = 0

    @property
    def is_asked(self) -> bool:
        """Whether the work should stop."""
        return self._asked.is_set()

    @property
    def reason(self) -> str:
        """Why the work should stop; empty if it should not."""
        return self._reason

    @property
    def steps(self) -> int:
        """The steps that the work has done: its calls of `check_abandoned`."""
        return self._steps

    def ask(self, reason: str) -> None:
        """Make the work stop soon; the first reason counts.

        Args:
            reason: a few words for the operator.
        """
        with self._lock:
            if self._asked.is_set():
                return
            self._reason = reason
            self._asked.set()
            cancel = self._cancel
        if cancel is not None:
            cancel()

    def check(self) -> None:
        """Continue only if the work should not stop.

        Raises:
            Abandoned: it should.
        """
        if self._asked.is_set():
            raise Abandoned(self._reason)

    def pause(self, seconds: float) -> None:
        """Wait.

        Raises:
            Abandoned: the work should stop.
        """
        self._asked.wait(seconds)
        self.check()

    @contextlib.contextmanager
    def cancelling(self, cancel: Callable[[], object]) -> Generator[None]:
        """Call `cancel` as soon as the work should stop while the block runs.

        Raises:
            Abandoned: it should have stopped before.
        """
        with self._lock:
            self._cancel = cancel
        try:
            if self.is_asked:
                cancel()
            self.check()
            yield
        finally:
            with self._lock:
                self._cancel = None

    @contextlib.contextmanager
    def obeyed(self) -> Generator[None]:
        """Make `check_abandoned` check this abandonment, in this thread, while the block runs."""
        token = OBEYED.set(self.step)
        try:
            yield
        finally:
            OBEYED.reset(token)

    def step(self) -> None:
        """Count a step, and check.

        Raises:
            Abandoned: the work should stop.
        """
        self._steps += 1
        self.check()
